//! Job states, exits and failures.

use convoke_model::{
    ExitStatus, Failure, FailureClass, Generation, JobState, TaskExit, TaskPhase, Timestamp,
};

use super::explanation::boxed;
use super::{InvalidMessage, required};
use crate::v1;

impl From<JobState> for v1::JobState {
    fn from(state: JobState) -> Self {
        match state {
            JobState::Queued => Self::Queued,
            JobState::Starting => Self::Starting,
            JobState::Running => Self::Running,
            JobState::Stopping => Self::Stopping,
            JobState::Succeeded => Self::Succeeded,
            JobState::Failed => Self::Failed,
            JobState::Stopped => Self::Stopped,
        }
    }
}

impl v1::JobState {
    /// True when nothing more will happen to the job by itself.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Stopped)
    }
}

impl From<TaskExit> for v1::TaskExit {
    fn from(exit: TaskExit) -> Self {
        Self {
            status: Some(exit.status.into()),
            at_unix_ms: exit.at.0,
            stopped: exit.stopped,
            message: exit.message.unwrap_or_default(),
            explanation: exit.explanation.map(|explanation| (*explanation).into()),
            oom_killed: exit.oom_killed,
        }
    }
}

impl TryFrom<v1::TaskExit> for TaskExit {
    type Error = InvalidMessage;
    fn try_from(wire: v1::TaskExit) -> Result<Self, InvalidMessage> {
        Ok(Self {
            status: required(wire.status, "exit.status")?.into(),
            at: Timestamp(wire.at_unix_ms),
            stopped: wire.stopped,
            message: (!wire.message.is_empty()).then_some(wire.message),
            oom_killed: wire.oom_killed,
            explanation: boxed(wire.explanation),
        })
    }
}

impl From<ExitStatus> for v1::task_exit::Status {
    fn from(status: ExitStatus) -> Self {
        match status {
            ExitStatus::Code(code) => Self::Code(code),
            ExitStatus::Signal(signal) => Self::Signal(signal),
            ExitStatus::Unknown => Self::Unknown(true),
        }
    }
}

impl From<v1::task_exit::Status> for ExitStatus {
    fn from(wire: v1::task_exit::Status) -> Self {
        match wire {
            v1::task_exit::Status::Code(code) => Self::Code(code),
            v1::task_exit::Status::Signal(signal) => Self::Signal(signal),
            v1::task_exit::Status::Unknown(_) => Self::Unknown,
        }
    }
}

impl v1::Failure {
    /// A failure, and the generation that it ended.
    pub fn new(failure: Failure, generation: Generation) -> Self {
        let class = match failure.class {
            FailureClass::Infrastructure => v1::FailureClass::Infrastructure,
            FailureClass::Application => v1::FailureClass::Application,
        };
        Self {
            class: class.into(),
            node: failure.node.map(Into::into),
            rank: failure.rank.map(|r| r.0),
            exit: failure.exit.map(|status| v1::TaskExit {
                status: Some(status.into()),
                at_unix_ms: failure.at.0,
                oom_killed: failure.oom_killed,
                ..Default::default()
            }),
            message: failure.message,
            at_unix_ms: failure.at.0,
            generation: generation.0,
            explanation: failure.explanation.map(|explanation| (*explanation).into()),
        }
    }
}

impl v1::Task {
    /// What operators see of a task.
    pub fn new(rank: u32, phase: TaskPhase) -> Self {
        let (state, exit) = match phase {
            TaskPhase::Waiting => (v1::TaskState::Waiting, None),
            TaskPhase::Running { .. } => (v1::TaskState::Running, None),
            TaskPhase::Exited(exit) => (v1::TaskState::Exited, Some(exit.into())),
        };
        Self { rank, state: state.into(), exit }
    }
}

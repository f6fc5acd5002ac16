//! A job's states, and why a gang ended.

use serde::{Deserialize, Serialize};

use crate::{Explanation, NodeId, Rank, Timestamp};

/// Where a job is in its life, for people and clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Queued,
    /// Placed; its agents prepare, or its tasks are being started.
    Starting,
    /// Every task runs.
    Running,
    /// The gang is being stopped; a restart, a failure or a stop follows.
    Stopping,
    Succeeded,
    Failed,
    Stopped,
}

impl JobState {
    /// True when nothing more will happen to the job by itself.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Stopped)
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// Its shim vanished without an exit record, so nobody knows.
    Unknown,
}

impl ExitStatus {
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

/// A task's end, as the agent saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskExit {
    pub status: ExitStatus,
    pub at: Timestamp,
    /// The task was asked to stop before it ended.
    pub stopped: bool,
    /// Why it could not be started, or what is known of its end; for people.
    pub message: Option<String>,
    /// The kernel killed a process of it for memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// Why it ended; `None` until its output is complete, and where nothing is recognised.
    #[serde(default)]
    pub explanation: Option<Box<Explanation>>,
}

impl TaskExit {
    /// An end of which nothing else is known.
    pub fn new(status: ExitStatus, at: Timestamp) -> Self {
        Self { status, at, stopped: false, message: None, oom_killed: false, explanation: None }
    }
}

/// Which budget a failure is charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    Infrastructure,
    Application,
}

/// The first thing that went wrong with a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub class: FailureClass,
    pub node: Option<NodeId>,
    /// The rank that failed first, or the first of its task where that is all that is known.
    pub rank: Option<Rank>,
    /// How its task ended; none if that was by Convoke's signal, after a failure of its own.
    pub exit: Option<ExitStatus>,
    /// The kernel killed a process of the task for memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// A sentence for people: what, where, and what to do next.
    pub message: String,
    pub at: Timestamp,
    /// Why the task ended, or the node refused its replica, where that is recognised.
    #[serde(default)]
    pub explanation: Option<Box<Explanation>>,
}

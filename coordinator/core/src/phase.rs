//! The phases of a job, each with the data that only it has.
//!
//! ```text
//! Queued ── placed ──> Starting ── every task runs ──> Running ── every exit 0 ──> Succeeded
//!   ^                     │                               │
//!   │                     └───── failure, stop, restart ──┴──> Draining ── every replica ended ─┐
//!   └── Restart ──────────────────────────────────────────────────────────────────────────────  ┤
//!                                                        Failed, Stopped <── Fail, Stop ────────┘
//! ```
//! A final phase is left only by a user's restart. What is to start over after its end goes from `Running`, with every
//! exit 0, to `Queued`.

use convoke_model::{
    Explanation, Failure, JobId, JobState, NodeId, NodeRank, Rendezvous, Revision, Timestamp,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Queued(Queued),
    Starting(Starting),
    Running(Running),
    Draining(Draining),
    Succeeded,
    Failed { reason: String },
    Stopped { reason: String },
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queued {
    /// Why it is not placed, for people; never empty.
    pub reason: String,
    /// The pause before a restart.
    pub not_before: Option<Timestamp>,
    /// The jobs that it replaces and that have not ended.
    pub after: Vec<JobId>,
    /// Nodes that turned its last generation away: used only where no other is left.
    pub avoid: Vec<NodeId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starting {
    /// When the stage must have ended.
    pub deadline: Timestamp,
    pub stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Agents reserve devices and ports and fetch what is needed.
    Preparing,
    /// All were ready: agents start the tasks.
    Released(Release),
}

/// What started the tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub rendezvous: Rendezvous,
    /// A node that has applied this revision knows its replica.
    pub revision: Revision,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub release: Release,
    pub since: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    pub then: Then,
    pub grace_ms: u64,
    /// Revision that ordered it: a node that has applied it and reports no replica has none.
    pub ordered: Revision,
    /// When people are told that it takes too long.
    pub overdue: Timestamp,
    pub overdue_told: bool,
    /// Replicas on nodes that are lost, or suspect while the gang failed: not waited for. Their
    /// devices stay held until the node reports them ended.
    pub given_up: Vec<NodeRank>,
}

/// What follows a drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// The gang failed: the next generation if the budget allows, else the job fails. Decided at
    /// the drain's end, when every exit is known: survivors of a killed rank often exit before the
    /// killed one is reported, and must not be taken for the cause.
    Recover {
        failure: Failure,
        avoid: Vec<NodeId>,
    },
    /// An agent turned the placement away for a passing reason: another placement, not charged.
    Replace {
        reason: String,
        avoid: Vec<NodeId>,
        #[serde(default)]
        explanation: Option<Box<Explanation>>,
    },
    /// A user asked for the next generation.
    Restart,
    Fail {
        reason: String,
        /// Where somebody refused it.
        #[serde(default)]
        failure: Option<Box<Failure>>,
    },
    Stop {
        reason: String,
    },
}

impl Phase {
    /// The phase as clients see it.
    pub fn state(&self) -> JobState {
        match self {
            Self::Queued(_) => JobState::Queued,
            Self::Starting(_) => JobState::Starting,
            Self::Running(_) => JobState::Running,
            Self::Draining(_) => JobState::Stopping,
            Self::Succeeded => JobState::Succeeded,
            Self::Failed { .. } => JobState::Failed,
            Self::Stopped { .. } => JobState::Stopped,
        }
    }

    /// True if the job's gang is placed: it holds devices and agents are told of it.
    pub fn has_gang(&self) -> bool {
        matches!(self, Self::Starting(_) | Self::Running(_) | Self::Draining(_))
    }

    pub fn is_final(&self) -> bool {
        self.state().is_final()
    }

    /// Why it waits, stops or has ended; empty where there is nothing to say.
    pub fn reason(&self) -> &str {
        match self {
            Self::Queued(queued) => &queued.reason,
            Self::Draining(draining) => draining.then.reason(),
            Self::Failed { reason } | Self::Stopped { reason } => reason,
            Self::Starting(_) | Self::Running(_) | Self::Succeeded => "",
        }
    }
}

impl Then {
    /// What went wrong, if something did that is to be remembered.
    pub(crate) fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Recover { failure, .. } => Some(failure),
            Self::Fail { failure, .. } => failure.as_deref(),
            Self::Replace { .. } | Self::Restart | Self::Stop { .. } => None,
        }
    }

    pub fn reason(&self) -> &str {
        match self {
            Self::Recover { failure, .. } => &failure.message,
            Self::Restart => "restart asked for by a user",
            Self::Replace { reason, .. } | Self::Fail { reason, .. } | Self::Stop { reason } => reason,
        }
    }
}

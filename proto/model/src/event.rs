//! What happened, for people: the cluster's history.

use serde::{Deserialize, Serialize};

use crate::{Generation, JobId, JobName, NodeId, Timestamp};

/// One line of history; numbered by the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    pub at: Timestamp,
    pub level: EventLevel,
    /// CamelCase, stable: `JobQueued`, `GenerationStarted`, `NodeLost`.
    pub kind: String,
    pub job: Option<JobId>,
    pub job_name: Option<JobName>,
    pub generation: Option<Generation>,
    pub node: Option<NodeId>,
    /// A sentence for people.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventLevel {
    Info,
    Warning,
}

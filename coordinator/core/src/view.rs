//! What readers see of the state.

use std::sync::Arc;

use convoke_model::{
    CheckpointRef, Condition, DeviceId, Generation, JobId, JobName, JobSpec, JobState, NodeInfo, NodeState,
    ObservedTask, Placement, ReplicaPlacement, Timestamp,
};

use crate::FailedGeneration;

/// A job as clients see it.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    pub id: JobId,
    pub spec: Arc<JobSpec>,
    pub state: JobState,
    /// Why it waits, or how it ended; may be empty.
    pub reason: String,
    /// 0 before the first start.
    pub generation: Generation,
    pub restarts_infrastructure: u32,
    pub restarts_application: u32,
    pub submitted: Timestamp,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    /// Of the current, or last, generation; empty before the first.
    pub replicas: Vec<ReplicaView>,
    pub world_size: u32,
    pub last_failure: Option<FailedGeneration>,
    pub latest_checkpoint: Option<CheckpointRef>,
    /// The checkpoint that the current, or last, generation started from.
    pub resumed_from: Option<CheckpointRef>,
}

/// A replica and its tasks, one per task in rank order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaView {
    pub placement: ReplicaPlacement,
    pub tasks: Vec<ObservedTask>,
}

/// A node as clients see it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    pub info: NodeInfo,
    pub state: NodeState,
    pub since: Timestamp,
    pub conditions: Vec<Condition>,
    pub in_use: Vec<DeviceUse>,
}

/// A device that is taken, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceUse {
    pub device: DeviceId,
    pub job: JobId,
    /// `None` when the job is forgotten.
    pub job_name: Option<JobName>,
    pub generation: Generation,
}

/// Where a job would be placed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The placement, or why there is none now.
    pub placement: Result<Placement, String>,
    /// It could not be placed on the registered nodes even if all were idle.
    pub never_fits: bool,
}

//! What an agent is told: the whole desired state of its node, level-triggered.

use serde::{Deserialize, Serialize};

use crate::{
    CheckpointRef, ClusterId, Collect, Epoch, Generation, JobId, JobSpec, Mount, NodeRank, Rendezvous,
    ReplicaPlacement, Revision,
};

/// The complete desired state of one node. A replica that is absent is to be stopped and forgotten,
/// but only when the cluster is the agent's own and (epoch, revision) is not older than its last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DesiredState {
    pub cluster: ClusterId,
    pub epoch: Epoch,
    pub revision: Revision,
    pub replicas: Vec<DesiredReplica>,
}

/// One replica's desired state on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DesiredReplica {
    pub job: JobId,
    pub generation: Generation,
    pub spec: JobSpec,
    pub placement: ReplicaPlacement,
    pub world_size: u32,
    /// Number of replicas in the gang.
    pub node_count: u32,
    pub goal: ReplicaGoal,
    /// The checkpoint that this generation starts from.
    pub resume_from: Option<CheckpointRef>,
    /// Whose files lie over what was submitted, where their mounts meet this job's; one after those that it
    /// waited for itself.
    #[serde(default)]
    pub predecessors: Vec<Predecessor>,
}

/// A job that this one waited for before its first start: what it brought home is there for this one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Predecessor {
    pub job: JobId,
    /// The submitter's directory that the sources of its mounts are relative to.
    pub project_dir: String,
    pub collect: Collect,
    /// Those that it could write to and whose content travels.
    pub volumes: Vec<Mount>,
    /// It had ended when this job was submitted: what the submitter changed between the two submits wins.
    pub ended_before: bool,
}

/// How far a replica should be. Only ever moves down this list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaGoal {
    /// Reserve devices and ports, lay out files, fetch the checkpoint; then report ready.
    Prepared,
    /// Start every task with this rendezvous.
    Running(Rendezvous),
    /// End every task: the stop signal, this many milliseconds of grace, SIGKILL. Keep the exit
    /// records until the replica is absent from the desired state.
    Stopped { grace_ms: u64 },
}

/// Names a replica across messages.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaKey {
    pub job: JobId,
    pub generation: Generation,
    pub node_rank: NodeRank,
}

impl DesiredReplica {
    pub fn key(&self) -> ReplicaKey {
        ReplicaKey { job: self.job.clone(), generation: self.generation, node_rank: self.placement.node_rank }
    }
}

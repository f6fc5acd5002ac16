//! The durable state: what a snapshot of the ledger holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use convoke_model::{
    AgentInstance, Checkpoint, CheckpointRef, CheckpointState, ClusterId, Condition, DeviceId, Epoch,
    Failure, Generation, GroupName, IdempotencyKey, JobId, JobSpec, NodeId, NodeInfo, ObservedState,
    ObservedTask, Placement, ReplicaKey, Revision, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::Phase;

/// Everything that survives a restart of the coordinator. Jobs and nodes are behind `Arc`, so that
/// a decision can work on a copy of the whole that costs no more than its index.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// `None` before the first start.
    pub cluster: Option<ClusterId>,
    pub epoch: Epoch,
    pub revision: Revision,
    /// Jobs submitted so far; orders the queue.
    pub submitted: u64,
    pub nodes: BTreeMap<NodeId, Arc<Node>>,
    pub jobs: BTreeMap<JobId, Arc<Job>>,
}

/// A registered node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub info: NodeInfo,
    pub instance: AgentInstance,
    pub registered: Timestamp,
    /// Since when its lease has run out.
    pub lost: Option<Timestamp>,
    /// The last report of this instance.
    pub observed: ObservedState,
    /// Replicas that are no longer wanted and not known to have ended.
    pub ghosts: Vec<Ghost>,
}

/// A replica that may still run although its gang is over: it holds its devices until its node
/// says that it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ghost {
    pub key: ReplicaKey,
    pub devices: Vec<DeviceId>,
    /// Revision that no longer wanted it.
    pub dismissed: Revision,
}

/// A job, from its submission until it is forgotten.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub spec: Arc<JobSpec>,
    pub key: IdempotencyKey,
    /// Position in the order of submissions.
    pub order: u64,
    pub submitted: Timestamp,
    pub run: JobRun,
    /// In order of creation.
    pub checkpoints: Vec<Checkpoint>,
    /// Of the current generation.
    pub unique_ids: BTreeMap<GroupName, UniqueId>,
}

/// The part of a job that its life changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRun {
    pub phase: Phase,
    /// 0 before the first start.
    pub generation: Generation,
    /// Of the current, or last, generation.
    pub gang: Option<Gang>,
    /// The checkpoint that a replaced job left to this one.
    pub inherited: Option<CheckpointRef>,
    pub restarts_infrastructure: u32,
    pub restarts_application: u32,
    /// Placements that were turned away without being charged, since the last failure that was.
    pub refusals: u32,
    /// Placements that were turned away because the image's registry did not answer, likewise.
    #[serde(default)]
    pub unanswered_pulls: u32,
    /// Generations in a row that ended so soon that the next one is made to wait where no budget ends the job.
    #[serde(default)]
    pub quick_ends: u32,
    /// First time every task ran.
    pub started: Option<Timestamp>,
    /// Milliseconds in Running by earlier generations; counts towards the time limit.
    pub ran_ms: u64,
    pub finished: Option<Timestamp>,
    pub last_failure: Option<FailedGeneration>,
    /// Whose files it starts with, settled at its first start.
    #[serde(default)]
    pub files_of: Vec<FilesOf>,
}

/// A job that leaves its files to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesOf {
    pub job: JobId,
    /// It had ended when the other one was submitted.
    pub ended_before: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedGeneration {
    pub generation: Generation,
    pub failure: Failure,
}

/// A generation's placement and origin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gang {
    pub placement: Placement,
    pub resume_from: Option<CheckpointRef>,
    /// What became of its tasks, once it is over.
    pub tasks: Vec<ObservedTask>,
}

/// 128 bytes that the ranks of a group need to meet; NCCL's unique id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UniqueId(#[serde(with = "hex::serde")] pub [u8; 128]);

impl State {
    /// True while a node that is not lost says that it is still sending files of the job's last generation: those
    /// that follow may leave, and the agent gives them up in the end.
    pub fn is_returning_files(&self, job: &Job) -> bool {
        let nodes = self.nodes.values().filter(|node| node.lost.is_none());
        let replicas = nodes.flat_map(|node| &node.observed.replicas);
        let mut own = replicas.filter(|r| r.key.job == job.id && r.key.generation == job.run.generation);
        own.any(|replica| replica.conditions.iter().any(|c| c.name == Condition::RETURNING_FILES))
    }
}

impl Job {
    /// The newest checkpoint that every expected rank has stored.
    pub fn latest_checkpoint(&self) -> Option<&Checkpoint> {
        let complete = self.checkpoints.iter().filter(|c| c.state == CheckpointState::Complete);
        complete.max_by_key(|c| (c.reference.generation, c.reference.step))
    }
}

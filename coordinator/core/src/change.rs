//! What a decision changes, as the ledger keeps it, and what follows from it.

use convoke_model::{
    AgentInstance, Checkpoint, CheckpointRef, ClusterId, Epoch, EventRecord, Generation, GroupName, JobId,
    NodeId, NodeInfo, ObservedState, Revision, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{Ghost, Job, JobRun, UniqueId};

/// One decision's changes, applied all or nothing and in order; and what to tell people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    pub at: Timestamp,
    pub changes: Vec<Change>,
    pub events: Vec<EventRecord>,
}

/// Each replaces a part of the state whole: applying one takes no decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Started {
        cluster: ClusterId,
        epoch: Epoch,
    },
    NodeRegistered {
        info: NodeInfo,
        instance: AgentInstance,
    },
    NodeObserved {
        node: NodeId,
        observed: ObservedState,
    },
    NodeLost {
        node: NodeId,
    },
    NodeForgotten {
        node: NodeId,
    },
    NodeGhosts {
        node: NodeId,
        ghosts: Vec<Ghost>,
    },
    JobSubmitted {
        job: Box<Job>,
    },
    JobRun {
        job: JobId,
        run: Box<JobRun>,
    },
    JobForgotten {
        job: JobId,
    },
    UniqueId {
        job: JobId,
        generation: Generation,
        group: GroupName,
        id: UniqueId,
    },
    /// The generation is over: nothing of it is accepted from now on.
    GenerationEnded {
        job: JobId,
        generation: Generation,
    },
    Checkpoint {
        checkpoint: Checkpoint,
    },
    CheckpointDeleted {
        reference: CheckpointRef,
    },
    /// What these nodes should run has changed.
    Desired {
        revision: Revision,
        nodes: Vec<NodeId>,
    },
}

/// What the shell does once changes are committed and applied. All may be repeated or, after a
/// crash, be lost, without harm: sessions start with the whole desired state, and stored
/// checkpoints that the catalogue does not name are removed at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send `Core::desired` to the node.
    DesiredChanged(NodeId),
    JobChanged(JobId),
    /// The job and all that is kept of it (logs, metrics, checkpoints) go.
    JobForgotten(JobId),
    NodeChanged(NodeId),
    /// Close the node's session, if there is one: its agent must say hello again.
    NodeLost(NodeId),
    /// Wake those who wait for this unique id.
    UniqueIdSet {
        job: JobId,
        generation: Generation,
        group: GroupName,
    },
    /// Refuse those who wait for anything of this generation.
    GenerationEnded {
        job: JobId,
        generation: Generation,
    },
    CheckpointChanged(CheckpointRef),
    DeleteCheckpoint(CheckpointRef),
    /// There is new history; it is in the changes.
    EventsAdded,
}

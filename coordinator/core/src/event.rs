//! What comes in, and the three answers to it: changes, already so, denied.

use std::time::Duration;

use convoke_model::{
    AgentInstance, CheckpointRef, ClusterId, Generation, GroupName, IdempotencyKey, JobId, JobSpec, NodeId,
    NodeInfo, ObservedState, Shard,
};

use crate::Changes;

/// Something that happened, or that somebody asks for. Random ids are made by the caller.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The coordinator has started on its ledger. The first event of every start; `new_cluster`
    /// is taken only by the very first.
    Started { new_cluster: ClusterId },
    /// A user submits a job; `id` is new.
    Submit {
        id: JobId,
        key: IdempotencyKey,
        spec: Box<JobSpec>,
        /// Stop a job of the same name that has not ended, and start from its last checkpoint.
        replace: bool,
        /// Accept what no set of registered nodes could hold.
        wait_for_nodes: bool,
    },
    /// A user asks for a job's end; `grace` instead of the job's own stop grace.
    Stop { job: JobId, grace: Option<Duration> },
    /// A user asks for a new generation from the last complete checkpoint.
    Restart { job: JobId },
    /// An agent opens a session. Once it is accepted, the shell reports `SessionOpened`.
    NodeHello { info: NodeInfo, instance: AgentInstance, cluster: Option<ClusterId> },
    /// An agent's whole observed state, in the order sent; never from a session that was replaced.
    NodeObserved { node: NodeId, observed: ObservedState },
    /// Rank 0 of a group publishes the unique id that its members need.
    PublishUniqueId { job: JobId, generation: Generation, group: GroupName, id: Vec<u8> },
    /// A shard's files are on disk and their hashes verified.
    ShardStored { reference: CheckpointRef, shard: Shard },
    /// Time has passed: `Core::next_deadline`, or a session was closed.
    Tick,
}

/// Volatile facts about sessions; never in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    SessionOpened {
        node: NodeId,
        instance: AgentInstance,
    },
    /// The node's current session is gone. Not to be reported for one that was replaced. A `Tick`
    /// should follow.
    SessionClosed {
        node: NodeId,
    },
    /// Any message of the node's session.
    Heard {
        node: NodeId,
    },
    /// The coordinator itself did not run for a while (stopped, a paused machine, a disk that
    /// hung): it could hear nobody, so a reconnect window begins as after a start.
    Stalled,
}

/// The answer to an event that is not denied.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// To be committed to the ledger, then applied, then acted on. Never empty.
    Changes(Changes),
    AlreadySo(AlreadySo),
}

/// Nothing to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlreadySo {
    /// The request was accepted before, or asks for what is so; this is its job.
    Job(JobId),
    Nothing,
}

//! Refusals: a stable reason for programs, a sentence for people.

use convoke_model::{
    CheckpointRef, DeviceId, Generation, GroupName, InvalidSpec, JobId, JobName, NodeId, Rank,
};

use crate::{MAX_ACTIVE_JOBS, MAX_NODES, MAX_OBSERVED_REPLICAS, MAX_UNIQUE_ID_GROUPS};

/// Why an event is refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("the coordinator has not finished its start; try again")]
    NotStarted,
    #[error("{0}; correct the job file and submit again")]
    InvalidSpec(#[from] InvalidSpec),
    #[error("idempotency key was used before, for job {job} with another specification; use a new key")]
    KeyReused { job: JobId },
    #[error("job id {0} exists; make a new one")]
    IdTaken(JobId),
    #[error(
        "job \"{name}\" ({job}) has not ended; replace it (--replace), give this one another name \
         (--name), or stop it first"
    )]
    NameTaken { name: JobName, job: JobId },
    #[error("no set of registered nodes could hold it: {0}; ask for less, or wait for nodes to be added")]
    NeverFits(String),
    #[error("{MAX_ACTIVE_JOBS} jobs have not ended, which is the limit; wait for some, or stop some")]
    TooManyJobs,
    #[error("no job is called \"{0}\"")]
    UnknownJob(String),
    #[error("\"{prefix}\" could mean {first} or {second}; give the whole name or the id")]
    AmbiguousJob { prefix: String, first: String, second: String },
    #[error("node {0} is not registered; its agent must say hello first")]
    UnknownNode(NodeId),
    #[error(
        "node name {0} is held by another agent that was heard within its lease; give this agent another \
         name, or stop the other one and wait for its lease to run out"
    )]
    NodeTaken(NodeId),
    #[error(
        "node {node}'s agent has the state directory of node {other}, whose agent was heard within its lease: \
         a copy, or the same under another name. Give this agent a --state-dir of its own, or end the other agent \
         and wait for its lease to run out"
    )]
    InstanceTaken { node: NodeId, other: NodeId },
    #[error(
        "node {node} is served by an agent on host {theirs}, and this one, on host {ours}, has a copy of its state \
         directory. Give it a --state-dir of its own and another --node, or end the other agent"
    )]
    InstanceCopied { node: NodeId, theirs: String, ours: String },
    #[error("{MAX_NODES} nodes are registered, which is the limit")]
    TooManyNodes,
    #[error(
        "the agent belongs to cluster {theirs}, this is cluster {ours}; point it at its own coordinator, \
         or clear its state directory"
    )]
    WrongCluster { ours: String, theirs: String },
    #[error("node {node} lists device {device} twice; each device id must be unique on its node")]
    DuplicateDevice { node: NodeId, device: DeviceId },
    #[error("node {0} reports more than {MAX_OBSERVED_REPLICAS} replicas")]
    TooManyReplicas(NodeId),
    #[error("generation {generation} of job {job} is not its current one; its work is no longer accepted")]
    StaleGeneration { job: JobId, generation: Generation },
    #[error("a unique id is 128 bytes, this one is {0}")]
    BadUniqueId(usize),
    #[error("group \"{0}\" has a unique id already, and it is another one")]
    UniqueIdSet(GroupName),
    #[error("this generation has unique ids for {MAX_UNIQUE_ID_GROUPS} groups, which is the limit")]
    TooManyGroups,
    #[error("rank {rank} does not store a shard of checkpoint step {}; see x-convoke.checkpoint.shards", .reference.step)]
    UnexpectedShard { reference: CheckpointRef, rank: Rank },
    #[error("rank {rank} stored other files for checkpoint step {} before", .reference.step)]
    ShardConflict { reference: CheckpointRef, rank: Rank },
}

impl Denied {
    /// The stable reason, as programs match on it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotStarted => "NOT_STARTED",
            Self::InvalidSpec(_) => "INVALID_SPEC",
            Self::KeyReused { .. } => "KEY_REUSED",
            Self::IdTaken(_) => "ID_TAKEN",
            Self::NameTaken { .. } => "NAME_TAKEN",
            Self::NeverFits(_) => "NEVER_FITS",
            Self::TooManyJobs => "TOO_MANY_JOBS",
            Self::UnknownJob(_) => "UNKNOWN_JOB",
            Self::AmbiguousJob { .. } => "AMBIGUOUS_JOB",
            Self::UnknownNode(_) => "UNKNOWN_NODE",
            Self::NodeTaken(_) => "NODE_TAKEN",
            Self::InstanceTaken { .. } | Self::InstanceCopied { .. } => "NODE_INSTANCE_TAKEN",
            Self::TooManyNodes => "TOO_MANY_NODES",
            Self::WrongCluster { .. } => "WRONG_CLUSTER",
            Self::DuplicateDevice { .. } => "DUPLICATE_DEVICE",
            Self::TooManyReplicas(_) => "TOO_MANY_REPLICAS",
            Self::StaleGeneration { .. } => "STALE_GENERATION",
            Self::BadUniqueId(_) => "BAD_UNIQUE_ID",
            Self::UniqueIdSet(_) => "UNIQUE_ID_SET",
            Self::TooManyGroups => "TOO_MANY_GROUPS",
            Self::UnexpectedShard { .. } => "UNEXPECTED_SHARD",
            Self::ShardConflict { .. } => "SHARD_CONFLICT",
        }
    }
}

//! The state machine: state, sessions, and the methods that the shell calls.

use convoke_model::{
    Checkpoint, CheckpointRef, DesiredState, Generation, GroupName, JobId, JobSpec, NodeId, Rank, Timestamp,
};

use crate::{
    AlreadySo, Changes, Config, Decision, Denied, Effect, Event, JobView, NodeView, Observation, Plan, State,
    UniqueId,
};

/// The rules of one cluster. `now` never goes back from call to call.
#[derive(Debug, Clone)]
pub struct Core {
    config: Config,
    state: State,
}

impl Core {
    /// The core on a snapshot (`State::default()` for a new cluster). Replay the ledger's later
    /// changes with `apply`, then decide `Event::Started`.
    pub fn new(config: Config, state: State) -> Self {
        Self { config, state }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The durable part; a snapshot is its JSON.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What `event` changes. Changes nothing itself.
    pub fn decide(&self, _now: Timestamp, _event: Event) -> Result<Decision, Denied> {
        Ok(Decision::AlreadySo(AlreadySo::Nothing))
    }

    /// Takes committed changes over and says what follows from them.
    pub fn apply(&mut self, _changes: &Changes) -> Vec<Effect> {
        Vec::new()
    }

    /// Takes note of a session.
    pub fn observe(&mut self, _now: Timestamp, _seen: Observation) {}

    /// When to decide `Event::Tick` next; `None` is never, unless something else happens first.
    /// Once that tick is applied, the next deadline is later than it.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        None
    }

    /// What the node should run, whole.
    pub fn desired(&self, _node: &NodeId) -> Option<DesiredState> {
        None
    }

    pub fn job(&self, _job: &JobId) -> Option<JobView> {
        None
    }

    /// One job by id, by name (the newest of that name), or by a unique prefix of either.
    pub fn find_job(&self, query: &str) -> Result<JobId, Denied> {
        Err(Denied::UnknownJob(query.to_owned()))
    }

    /// Every job that is remembered, newest first.
    pub fn jobs(&self) -> Vec<JobView> {
        Vec::new()
    }

    pub fn nodes(&self, _now: Timestamp) -> Vec<NodeView> {
        Vec::new()
    }

    /// Where a job would be placed now, or why not.
    pub fn plan(&self, _now: Timestamp, _spec: &JobSpec) -> Result<Plan, Denied> {
        Ok(Plan { placement: Err(String::new()), never_fits: false })
    }

    /// The unique id of a group, if it is published; `StaleGeneration` if it never will be.
    pub fn unique_id(
        &self,
        job: &JobId,
        generation: Generation,
        _group: &GroupName,
    ) -> Result<Option<&UniqueId>, Denied> {
        Err(Denied::StaleGeneration { job: job.clone(), generation })
    }

    /// A job's checkpoints, newest first; empty for an unknown job.
    pub fn checkpoints(&self, _job: &JobId) -> Vec<&Checkpoint> {
        Vec::new()
    }

    pub fn checkpoint(&self, _reference: &CheckpointRef) -> Option<&Checkpoint> {
        None
    }

    /// Whether a shard would be accepted: asked before its bytes are received.
    pub fn expects_shard(&self, reference: &CheckpointRef, _rank: Rank) -> Result<(), Denied> {
        Err(Denied::StaleGeneration { job: reference.job.clone(), generation: reference.generation })
    }

    /// True while work of this generation is accepted.
    pub fn is_current(&self, _job: &JobId, _generation: Generation) -> bool {
        false
    }
}

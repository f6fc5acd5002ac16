//! The state machine: state, sessions, and the methods that the shell calls.

use convoke_model::{ClusterId, Epoch, Timestamp};

use crate::draft::Draft;
use crate::session::Sessions;
use crate::submit::{Granted, Submit};
use crate::{
    AlreadySo, Change, Changes, Config, Decision, Denied, Effect, Event, Observation, State, deadline,
};

/// The rules of one cluster. `now` never goes back from call to call.
#[derive(Debug, Clone)]
pub struct Core {
    pub(crate) config: Config,
    pub(crate) state: State,
    pub(crate) sessions: Sessions,
}

impl Core {
    /// The core on a snapshot (`State::default()` for a new cluster). Replay the ledger's later
    /// changes with `apply`, then decide `Event::Started`.
    pub fn new(config: Config, state: State) -> Self {
        Self { config, state, sessions: Sessions::default() }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The durable part; a snapshot is its JSON.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What `event` changes. Changes nothing itself.
    pub fn decide(&self, now: Timestamp, event: Event) -> Result<Decision, Denied> {
        let mut draft = self.draft(now);
        if let Event::Started { new_cluster } = event {
            start(&mut draft, new_cluster);
        } else if self.sessions.is_started() {
            draft.expire_nodes();
            if let Some(job) = handle(&mut draft, event)? {
                return Ok(Decision::AlreadySo(AlreadySo::Job(job)));
            }
            draft.settle();
        } else {
            return Err(Denied::NotStarted);
        }
        Ok(draft.into_changes().map_or(Decision::AlreadySo(AlreadySo::Nothing), Decision::Changes))
    }

    /// Takes committed changes over and says what follows from them.
    pub fn apply(&mut self, changes: &Changes) -> Vec<Effect> {
        let mut effects = Vec::new();
        for change in &changes.changes {
            self.state.take(changes.at, change);
            change.effects(&mut effects);
            match change {
                Change::Started { .. } => self.sessions.start(changes.at),
                Change::NodeRegistered { info, instance } => {
                    self.sessions.greet(changes.at, &info.id, instance);
                }
                Change::NodeLost { node } => self.sessions.lose(changes.at, node),
                Change::NodeForgotten { node } => self.sessions.forget(node),
                _ => {}
            }
        }
        if !changes.events.is_empty() {
            effects.push(Effect::EventsAdded);
        }
        effects
    }

    /// Takes note of a session.
    pub fn observe(&mut self, now: Timestamp, seen: Observation) {
        self.sessions.observe(now, seen);
    }

    /// When to decide `Event::Tick` next; `None` is never, unless something else happens first.
    /// Once that tick is applied, the next deadline is later than it.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        deadline::next(&self.config, &self.sessions, &self.state).filter(|_| self.sessions.is_started())
    }

    pub(crate) fn draft(&self, now: Timestamp) -> Draft<'_> {
        Draft::new(&self.config, &self.sessions, &self.state, now)
    }
}

fn start(draft: &mut Draft<'_>, new_cluster: ClusterId) {
    let cluster = draft.state.cluster.clone().unwrap_or(new_cluster);
    let epoch = Epoch(draft.state.epoch.0 + 1);
    draft.tell("ClusterStarted", format!("cluster {cluster} started, epoch {epoch}"));
    draft.make(Change::Started { cluster, epoch });
}

fn handle(draft: &mut Draft<'_>, event: Event) -> Result<Granted, Denied> {
    match event {
        Event::Submit { id, key, spec, replace, wait_for_nodes } => {
            return draft.submit(Submit { id, key, spec: *spec, replace, wait_for_nodes });
        }
        Event::Stop { job, grace } => return draft.stop(&job, grace, "stopped by a user"),
        Event::Restart { job } => return draft.restart(&job),
        Event::NodeHello { info, instance, cluster } => draft.hello(info, instance, cluster)?,
        Event::NodeObserved { node, observed } => draft.observed(&node, observed)?,
        Event::PublishUniqueId { job, generation, group, id } => {
            draft.publish(job, generation, group, &id)?
        }
        Event::ShardStored { reference, shard } => draft.shard_stored(reference, shard)?,
        Event::Started { .. } | Event::Tick => {}
    }
    Ok(None)
}

//! One life: the core, its shell in miniature, the agents, and what may happen next.

use std::collections::BTreeMap;
use std::time::Duration;

use convoke_core::*;
use convoke_model::*;

use super::agent::{Agent, Link};
use super::checks::Checks;
use super::dice::Dice;
use crate::support::{info, node_id};

/// What was violated.
pub(crate) type Violation = String;

pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) now: Timestamp,
    pub(crate) core: Core,
    pub(crate) agents: BTreeMap<NodeId, Agent>,
    pub(crate) jobs: Vec<JobId>,
    /// What happened, if anybody reads it.
    pub(crate) trace: Option<Vec<String>>,
    pub(crate) checks: Checks,
    pub(crate) ledger: Vec<Changes>,
    pub(crate) calm: bool,
}

impl World {
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let agent = |name: &str, slots| (node_id(name), Agent::new(info(name, slots)));
        let names = ["a", "b", "c", "d", "e"];
        let agents = names[..2 + dice.below(4)].iter().map(|name| agent(name, dice.upto(4))).collect();
        let core = Core::new(Config::default(), State::default());
        let (jobs, ledger) = (Vec::new(), Vec::new());
        let trace = traced.then(Vec::new);
        let checks = Checks::default();
        let now = Timestamp(1_000_000);
        Self { dice, now, core, agents, jobs, trace, checks, ledger, calm: false }
    }

    /// Something happens.
    pub(crate) fn live(&mut self) -> Result<(), Violation> {
        if self.ledger.is_empty() {
            return self.start_coordinator();
        }
        match self.dice.below(100) {
            0..6 => self.submit(),
            6..8 => self.stop(),
            8..9 => self.restart_job(),
            9..10 => self.restart_coordinator(),
            10..50 => self.step_agent(),
            50..64 => self.end_task(),
            64..70 => self.fault(),
            70..74 => self.late_message(),
            74..78 => self.publish(),
            78..84 => self.store(),
            84..90 => self.connect_someone(),
            _ => {
                let far = if self.dice.percent(10) { 400_000 } else { 6_000 };
                let time = self.dice.below(far);
                self.pass(Duration::from_millis(time as u64))
            }
        }
    }

    /// Decide, commit, apply, act: as the shell does; then everything is checked.
    pub(crate) fn event(&mut self, event: Event) -> Result<Result<Decision, Denied>, Violation> {
        let told = self.trace.as_ref().map(|_| brief(&event));
        let before = self.checks.before(self);
        let decision = self.core.decide(self.now, event.clone());
        if let Some(told) = told {
            self.note(format_args!("{told}\n    -> {}", summary(&decision)));
        }
        let mut effects = Vec::new();
        if let Ok(Decision::Changes(changes)) = &decision {
            effects = self.core.apply(changes);
            self.ledger.push(changes.clone());
        }
        let mut checks = std::mem::take(&mut self.checks);
        let verdict = checks.after(self, &before, &event, &decision, &effects);
        self.checks = checks;
        verdict?;
        for effect in effects {
            self.act(effect);
        }
        Ok(decision)
    }

    pub(crate) fn note(&mut self, what: std::fmt::Arguments<'_>) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{} {what}", self.now.0));
        }
    }

    fn act(&mut self, effect: Effect) {
        match effect {
            Effect::DesiredChanged(node) => self.push(&node),
            Effect::NodeLost(node) => {
                if let Some(agent) = self.agents.get_mut(&node) {
                    agent.link = Link::Closed;
                    agent.inbox.clear();
                }
            }
            _ => {}
        }
    }

    /// Sends a connected node what it should run.
    pub(crate) fn push(&mut self, node: &NodeId) {
        let desired = self.core.desired(node);
        if let (Some(agent), Some(desired)) = (self.agents.get_mut(node), desired)
            && agent.link == Link::Open
        {
            agent.inbox.push_back(desired);
        }
    }

    /// Time passes in the steps that the core asks for.
    pub(crate) fn pass(&mut self, time: Duration) -> Result<(), Violation> {
        let end = self.now.after(time);
        while self.now < end {
            let heartbeat = self.now.after(Duration::from_secs(5)).min(end);
            let due = self.core.next_deadline().unwrap_or(heartbeat);
            self.now = due.clamp(self.now.after(Duration::from_millis(1)), heartbeat);
            self.heartbeats();
            self.event(Event::Tick)?.map_err(|denied| denied.to_string())?;
            if self.core.next_deadline().is_some_and(|next| next <= self.now) {
                return Err("a tick did not use its deadline up".to_owned());
            }
        }
        Ok(())
    }

    fn heartbeats(&mut self) {
        for (node, agent) in &mut self.agents {
            if agent.link == Link::Open {
                self.core.observe(self.now, Observation::Heard { node: node.clone() });
                agent.acknowledged = self.now;
            }
            agent.fence(self.now);
        }
    }

    fn start_coordinator(&mut self) -> Result<(), Violation> {
        let new_cluster = ClusterId::new("simulated").unwrap();
        self.event(Event::Started { new_cluster })?.map_err(|denied| denied.to_string())?;
        self.checks.started = self.now;
        Ok(())
    }

    /// From a snapshot and the rest of the ledger, as after `kill -9`.
    pub(crate) fn restart_coordinator(&mut self) -> Result<(), Violation> {
        let kept = self.dice.below(self.ledger.len() + 1);
        let mut core = Core::new(Config::default(), State::default());
        for (i, changes) in self.ledger.iter().enumerate() {
            if i == kept {
                let snapshot = serde_json::to_string(core.state()).unwrap();
                core = Core::new(Config::default(), serde_json::from_str(&snapshot).unwrap());
            }
            let stored = serde_json::to_string(changes).unwrap();
            core.apply(&serde_json::from_str(&stored).unwrap());
        }
        if core.state() != self.core.state() {
            return Err("a replay of the ledger gives another state".to_owned());
        }
        self.core = core;
        for agent in self.agents.values_mut() {
            agent.link = Link::Closed;
            agent.inbox.clear();
        }
        let away = if self.dice.percent(20) { 4_000_000 } else { 3_000 };
        let away = self.dice.below(away) as u64;
        self.now = self.now.after(Duration::from_millis(away));
        for agent in self.agents.values_mut() {
            agent.fence(self.now);
        }
        self.start_coordinator()
    }

    pub(crate) fn some_job(&mut self) -> JobId {
        let unknown = JobId::new("unknown").unwrap();
        self.dice.pick(&self.jobs).cloned().unwrap_or(unknown)
    }

    pub(crate) fn some_node(&mut self) -> NodeId {
        let nodes: Vec<NodeId> = self.agents.keys().cloned().collect();
        self.dice.pick(&nodes).expect("there are at least two").clone()
    }
}

fn brief(event: &Event) -> String {
    match event {
        Event::Submit { id, spec, replace, .. } => format!(
            "Submit {id} \"{}\" {}x{:?} replace {replace} {:?} fence {:?}",
            spec.name, spec.replicas, spec.devices.count, spec.restart, spec.fence
        ),
        Event::NodeHello { info, instance, .. } => format!("Hello {} {instance}", info.id),
        Event::NodeObserved { node, observed } => {
            let replica = |r: &ObservedReplica| {
                let tasks: Vec<String> =
                    r.tasks.iter().map(|t| format!("{}: {:?}", t.rank, t.phase)).collect();
                let key = &r.key;
                format!(
                    "{}/{}/{} {:?} [{}]",
                    key.job,
                    key.generation,
                    key.node_rank,
                    r.phase,
                    tasks.join(", ")
                )
            };
            let replicas: Vec<String> = observed.replicas.iter().map(replica).collect();
            format!("Observed {node} {:?}: {}", observed.applied, replicas.join("; "))
        }
        Event::ShardStored { reference, shard } => {
            let (job, generation, step) = (&reference.job, reference.generation, reference.step);
            format!("ShardStored {job}/{generation} step {step} rank {}", shard.rank)
        }
        Event::PublishUniqueId { job, generation, group, id } => {
            format!("PublishUniqueId {job}/{generation} {group} {} bytes", id.len())
        }
        other => format!("{other:?}"),
    }
}

fn summary(decision: &Result<Decision, Denied>) -> String {
    match decision {
        Err(denied) => format!("denied: {denied}"),
        Ok(Decision::AlreadySo(so)) => format!("already so: {so:?}"),
        Ok(Decision::Changes(changes)) => {
            let told: Vec<String> = changes
                .events
                .iter()
                .map(|e| {
                    let job = e.job.as_ref().map_or("", |job| job.as_str());
                    format!("{} {job} {}", e.kind, e.message)
                })
                .collect();
            format!("{} changes; {}", changes.changes.len(), told.join(" | "))
        }
    }
}

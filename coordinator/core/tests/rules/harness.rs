//! A core with a clock that tests turn by hand, and agents that do what a test tells them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use convoke_core::*;
use convoke_model::*;

use crate::support::{info, node_id, spec};

pub(crate) struct Harness {
    pub(crate) core: Core,
    pub(crate) now: Timestamp,
    pub(crate) ledger: Vec<Changes>,
    pub(crate) effects: Vec<Effect>,
    /// What each agent reports.
    pub(crate) reports: BTreeMap<NodeId, ObservedState>,
    keys: u32,
}

pub(crate) fn instance(name: &str) -> AgentInstance {
    AgentInstance::new(name).unwrap()
}

pub(crate) fn exit(status: ExitStatus, at: Timestamp) -> TaskExit {
    TaskExit::new(status, at)
}

impl Harness {
    pub(crate) fn new() -> Self {
        let core = Core::new(Config::default(), State::default());
        let (ledger, effects, reports) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut harness = Self { core, now: Timestamp(1_000_000), ledger, effects, reports, keys: 0 };
        harness.ok(Event::Started { new_cluster: ClusterId::new("c").unwrap() });
        harness
    }

    /// A cluster of connected nodes.
    pub(crate) fn with_nodes(nodes: &[(&str, u32)]) -> Self {
        let mut harness = Self::new();
        for (name, slots) in nodes {
            harness.connect(info(name, *slots));
        }
        harness
    }

    pub(crate) fn decide(&mut self, event: Event) -> Result<Decision, Denied> {
        let decision = self.core.decide(self.now, event)?;
        if let Decision::Changes(changes) = &decision {
            self.effects = self.core.apply(changes);
            self.ledger.push(changes.clone());
        } else {
            self.effects.clear();
        }
        Ok(decision)
    }

    pub(crate) fn ok(&mut self, event: Event) -> Decision {
        self.decide(event).unwrap()
    }

    pub(crate) fn denied(&mut self, event: Event) -> Denied {
        let before = self.core.state().clone();
        let denied = self.decide(event).expect_err("it was to be denied");
        assert_eq!(before, *self.core.state());
        denied
    }

    pub(crate) fn connect(&mut self, info: NodeInfo) {
        let (node, instance) = (info.id.clone(), instance(&format!("{}-1", info.id)));
        self.ok(Event::NodeHello { info, instance: instance.clone(), cluster: None });
        self.core.observe(self.now, Observation::SessionOpened { node: node.clone(), instance });
        self.follow(&node);
    }

    pub(crate) fn disconnect(&mut self, name: &str) {
        self.core.observe(self.now, Observation::SessionClosed { node: node_id(name) });
        self.ok(Event::Tick);
    }

    pub(crate) fn tick(&mut self) {
        self.ok(Event::Tick);
    }

    /// Time passes in the steps that the core asks for; connected nodes are heard all along.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            let next = self.core.next_deadline().unwrap_or(end).min(end);
            self.now = next
                .max(self.now.after(Duration::from_millis(1)))
                .min(self.now.after(Duration::from_secs(5)));
            for node in self.reports.keys() {
                self.core.observe(self.now, Observation::Heard { node: node.clone() });
            }
            self.tick();
        }
    }

    pub(crate) fn submit_event(&mut self, spec: JobSpec) -> Event {
        self.keys += 1;
        let key = IdempotencyKey::new(&format!("key-{}", self.keys)).unwrap();
        let id = JobId::new(&format!("{}-{}", spec.name, self.keys)).unwrap();
        Event::Submit { id, key, spec: Box::new(spec), replace: false, wait_for_nodes: false }
    }

    pub(crate) fn submit(&mut self, spec: JobSpec) -> JobId {
        let event = self.submit_event(spec);
        let Event::Submit { id, .. } = event.clone() else { unreachable!() };
        self.ok(event);
        id
    }

    pub(crate) fn job(&self, id: &JobId) -> JobView {
        self.core.job(id).expect("the job exists")
    }

    pub(crate) fn state(&self, id: &JobId) -> JobState {
        self.job(id).state
    }

    pub(crate) fn goals(&self, name: &str) -> Vec<ReplicaGoal> {
        let desired = self.core.desired(&node_id(name)).expect("the node is registered");
        desired.replicas.into_iter().map(|replica| replica.goal).collect()
    }

    pub(crate) fn send(&mut self, node: &NodeId) {
        let observed = self.reports.entry(node.clone()).or_default().clone();
        self.ok(Event::NodeObserved { node: node.clone(), observed });
    }

    /// One step of an obedient agent: takes over the desired state, does it, reports.
    pub(crate) fn follow(&mut self, node: &NodeId) {
        let desired = self.core.desired(node).expect("the node is registered");
        let report = self.reports.entry(node.clone()).or_default();
        report.applied = Some((desired.epoch, desired.revision));
        report.replicas.retain(|r| desired.replicas.iter().any(|d| d.key() == r.key));
        for replica in &desired.replicas {
            if !report.replicas.iter().any(|r| r.key == replica.key()) {
                report.replicas.push(untouched(replica));
            }
            let known = report.replicas.iter_mut().find(|r| r.key == replica.key());
            obey(known.expect("just added"), &replica.goal, self.now);
        }
        self.send(node);
    }

    pub(crate) fn follow_all(&mut self) {
        for _ in 0..4 {
            let nodes: Vec<NodeId> = self.reports.keys().cloned().collect();
            for node in nodes {
                self.follow(&node);
            }
        }
    }

    /// Agents drop what is no longer wanted and take in the rest without acting on it.
    pub(crate) fn follow_all_stopping(&mut self) {
        let nodes: Vec<NodeId> = self.reports.keys().cloned().collect();
        for node in nodes {
            let desired = self.core.desired(&node).expect("the node is registered");
            self.edit_report(node.as_str(), |report| {
                report.applied = Some((desired.epoch, desired.revision));
                report.replicas.retain(|r| desired.replicas.iter().any(|d| d.key() == r.key));
            });
        }
    }

    pub(crate) fn edit_report(&mut self, name: &str, edit: impl FnOnce(&mut ObservedState)) {
        edit(self.reports.entry(node_id(name)).or_default());
        self.send(&node_id(name));
    }

    /// The rank ends; its agent says so, and that the replica has ended if it was the last.
    pub(crate) fn end_task(&mut self, job: &JobId, rank: u32, status: ExitStatus) {
        self.end_task_as(job, rank, exit(status, self.now));
    }

    /// The same, with what its agent knows of it; also of one that has ended.
    pub(crate) fn end_task_as(&mut self, job: &JobId, rank: u32, exit: TaskExit) {
        let generation = self.job(job).generation;
        let replicas = self.job(job).replicas;
        let replica = replicas.iter().find(|r| r.tasks.iter().any(|t| t.rank == Rank(rank))).unwrap();
        let name = replica.placement.node.clone();
        self.edit_report(name.as_str(), |report| {
            let known =
                report.replicas.iter_mut().find(|r| r.key.job == *job && r.key.generation == generation);
            let known = known.unwrap();
            let task = known.tasks.iter_mut().find(|t| t.rank == Rank(rank)).unwrap();
            task.phase = TaskPhase::Exited(exit);
            if known.tasks.iter().all(|t| matches!(t.phase, TaskPhase::Exited(_))) {
                known.phase = ReplicaPhase::Ended;
            }
        });
    }

    pub(crate) fn end_all(&mut self, job: &JobId, status: ExitStatus) {
        for rank in 0..self.job(job).world_size {
            self.end_task(job, rank, status);
        }
    }

    pub(crate) fn store(&mut self, job: &JobId, step: u64, shard: Shard) -> Result<Decision, Denied> {
        let generation = self.job(job).generation;
        self.decide(Event::ShardStored {
            reference: CheckpointRef { job: job.clone(), generation, step: Step(step) },
            shard,
        })
    }

    pub(crate) fn kinds(&self) -> Vec<&str> {
        self.ledger.iter().flat_map(|c| &c.events).map(|e| e.kind.as_str()).collect()
    }

    pub(crate) fn messages(&self, kind: &str) -> Vec<&str> {
        let events = self.ledger.iter().flat_map(|c| &c.events);
        events.filter(|e| e.kind == kind).map(|e| e.message.as_str()).collect()
    }
}

fn untouched(replica: &DesiredReplica) -> ObservedReplica {
    let first = replica.placement.first_rank.0;
    let tasks = replica.placement.task_count(&replica.spec);
    let task = |i| ObservedTask { rank: Rank(first + i), phase: TaskPhase::Waiting };
    ObservedReplica {
        key: replica.key(),
        phase: ReplicaPhase::Preparing,
        tasks: (0..tasks).map(task).collect(),
        progress: None,
        conditions: Vec::new(),
    }
}

pub(crate) fn ready(tasks: usize) -> ReplicaPhase {
    let task_ports = (0..tasks).map(|i| 7001 + u16::try_from(i).unwrap()).collect();
    ReplicaPhase::Ready {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        master_port: 7000,
        task_ports,
        probe_port: None,
        image: None,
    }
}

fn obey(known: &mut ObservedReplica, goal: &ReplicaGoal, now: Timestamp) {
    match (goal, &known.phase) {
        (ReplicaGoal::Prepared, ReplicaPhase::Preparing) => known.phase = ready(known.tasks.len()),
        (ReplicaGoal::Running(_), ReplicaPhase::Ready { .. }) => {
            known.phase = ReplicaPhase::Started;
            for task in &mut known.tasks {
                task.phase = TaskPhase::Running { pid: 1, health: None };
            }
        }
        (ReplicaGoal::Stopped { .. }, phase) if *phase != ReplicaPhase::Ended => {
            for task in &mut known.tasks {
                if matches!(task.phase, TaskPhase::Running { .. }) {
                    let stopped = TaskExit { stopped: true, ..exit(ExitStatus::Signal(15), now) };
                    task.phase = TaskPhase::Exited(stopped);
                }
            }
            known.phase = ReplicaPhase::Ended;
        }
        _ => {}
    }
}

/// A service of the project that takes one slot of one node.
pub(crate) fn service(name: &str) -> JobSpec {
    JobSpec { service: name.to_owned(), ..spec(name, 1, 1) }
}

/// The same, which waits for another.
pub(crate) fn after(name: &str, other: &str, condition: DependsCondition) -> JobSpec {
    let mut spec = service(name);
    spec.container.depends_on.insert(other.to_owned(), condition);
    spec
}

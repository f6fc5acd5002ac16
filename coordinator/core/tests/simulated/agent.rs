//! A simple agent and the processes of its host. What it does is the truth that the core's
//! beliefs are checked against.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};

use convoke_model::*;

use super::dice::Dice;

/// How the agent's messages fare.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Link {
    Closed,
    Open,
    /// The coordinator holds it for open, but nothing passes.
    Cut,
}

pub(crate) struct Agent {
    pub(crate) info: NodeInfo,
    /// Number of its installation.
    pub(crate) installation: u32,
    pub(crate) link: Link,
    pub(crate) inbox: VecDeque<DesiredState>,
    pub(crate) wanted: Option<DesiredState>,
    pub(crate) replicas: BTreeMap<ReplicaKey, Held>,
    /// Reports of this session.
    pub(crate) sent: Vec<ObservedState>,
    /// The last heartbeat that was acknowledged.
    pub(crate) acknowledged: Timestamp,
    ports: u16,
}

/// A replica on the host.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) phase: ReplicaPhase,
    pub(crate) tasks: Vec<ObservedTask>,
    pub(crate) wish: DesiredReplica,
}

impl Held {
    /// True while it holds its devices.
    pub(crate) fn is_live(&self) -> bool {
        !matches!(self.phase, ReplicaPhase::Ended | ReplicaPhase::Refused { .. })
    }

    pub(crate) fn end(&mut self, status: ExitStatus, stopped: bool, at: Timestamp) {
        for task in &mut self.tasks {
            if matches!(task.phase, TaskPhase::Running { .. }) {
                task.phase = TaskPhase::Exited(TaskExit { stopped, ..TaskExit::new(status, at) });
            }
        }
        self.settle();
        self.phase = ReplicaPhase::Ended;
    }

    /// Once every task has ended, so has the replica.
    pub(crate) fn settle(&mut self) {
        let exited = |task: &&ObservedTask| matches!(task.phase, TaskPhase::Exited(_));
        if !self.tasks.is_empty() && self.tasks.iter().filter(exited).count() == self.tasks.len() {
            self.phase = ReplicaPhase::Ended;
        }
    }
}

impl Agent {
    pub(crate) fn new(info: NodeInfo) -> Self {
        let (inbox, sent, replicas) = (VecDeque::new(), Vec::new(), BTreeMap::new());
        let acknowledged = Timestamp(0);
        Self {
            info,
            installation: 1,
            link: Link::Closed,
            inbox,
            wanted: None,
            replicas,
            sent,
            acknowledged,
            ports: 1_000,
        }
    }

    pub(crate) fn instance(&self) -> AgentInstance {
        AgentInstance::new(&format!("{}-{}", self.info.id, self.installation)).unwrap()
    }

    pub(crate) fn applied(&self) -> Option<(Epoch, Revision)> {
        self.wanted.as_ref().map(|wanted| (wanted.epoch, wanted.revision))
    }

    pub(crate) fn report(&self) -> ObservedState {
        let replica = |(key, held): (&ReplicaKey, &Held)| ObservedReplica {
            key: key.clone(),
            phase: held.phase.clone(),
            tasks: held.tasks.clone(),
            progress: None,
            conditions: Vec::new(),
        };
        let replicas = self.replicas.iter().map(replica).collect();
        ObservedState { applied: self.applied(), replicas, ..ObservedState::default() }
    }

    /// The host starts anew: processes are gone, the agent's state is not.
    pub(crate) fn reboot(&mut self, now: Timestamp) {
        for held in self.replicas.values_mut().filter(|held| held.is_live()) {
            held.end(ExitStatus::Unknown, false, now);
        }
    }

    /// The host is installed anew: another agent, that knows nothing.
    pub(crate) fn reinstall(&mut self) {
        self.installation += 1;
        (self.wanted, self.replicas) = (None, BTreeMap::new());
    }

    /// Shims end the tasks of fenced jobs, agent or not.
    pub(crate) fn fence(&mut self, now: Timestamp) {
        let silent = now.since(self.acknowledged);
        for held in self.replicas.values_mut().filter(|held| held.is_live()) {
            if held.wish.spec.fence.is_some_and(|fence| silent >= fence) {
                held.end(ExitStatus::Signal(9), true, now);
            }
        }
    }

    /// Takes the next desired state over, if it is not older than its own.
    pub(crate) fn accept(&mut self) {
        if let Some(desired) = self.inbox.pop_front()
            && self.applied() <= Some((desired.epoch, desired.revision))
        {
            self.wanted = Some(desired);
        }
    }

    /// Does a part of what it should.
    pub(crate) fn work(&mut self, dice: &mut Dice, now: Timestamp, calm: bool) {
        let Some(wanted) = self.wanted.clone() else { return };
        for wish in &wanted.replicas {
            if calm || dice.percent(70) {
                self.advance(wish, dice, now, calm);
            }
        }
        let unwanted = |key: &ReplicaKey| !wanted.replicas.iter().any(|wish| wish.key() == *key);
        let keys: Vec<ReplicaKey> = self.replicas.keys().filter(|key| unwanted(key)).cloned().collect();
        for key in keys {
            if calm || dice.percent(70) {
                self.replicas.remove(&key);
            }
        }
    }

    fn advance(&mut self, wish: &DesiredReplica, dice: &mut Dice, now: Timestamp, calm: bool) {
        let busy = self.replicas.values().any(|held| {
            let theirs = &held.wish.placement.devices;
            held.is_live()
                && held.wish.key() != wish.key()
                && theirs.iter().any(|d| wish.placement.devices.contains(d))
        });
        self.ports += 10;
        let ports = self.ports;
        let tasks = wish.placement.task_count(&wish.spec);
        let waiting =
            |i| ObservedTask { rank: Rank(wish.placement.first_rank.0 + i), phase: TaskPhase::Waiting };
        let held = self.replicas.entry(wish.key()).or_insert_with(|| Held {
            phase: ReplicaPhase::Preparing,
            tasks: (0..tasks).map(waiting).collect(),
            wish: wish.clone(),
        });
        match (&wish.goal, &held.phase) {
            (ReplicaGoal::Prepared | ReplicaGoal::Running(_), ReplicaPhase::Preparing) => {
                let refused = busy || (!calm && dice.percent(8));
                held.phase = if refused { refusal(!calm && dice.percent(10)) } else { ready(ports, tasks) };
            }
            (ReplicaGoal::Prepared, ReplicaPhase::Ready { .. }) if !calm && dice.percent(3) => {
                held.phase = ReplicaPhase::Preparing;
            }
            (ReplicaGoal::Running(rendezvous), phase @ ReplicaPhase::Ready { .. })
                if holds(phase, wish, rendezvous) =>
            {
                held.phase = ReplicaPhase::Started;
            }
            (ReplicaGoal::Running(_), ReplicaPhase::Started) => {
                for task in held.tasks.iter_mut().filter(|task| task.phase == TaskPhase::Waiting) {
                    task.phase = TaskPhase::Running { pid: 1, health: None };
                }
            }
            (ReplicaGoal::Stopped { .. }, _) if held.is_live() => held.end(ExitStatus::Signal(15), true, now),
            _ => {}
        }
    }
}

fn refusal(is_final: bool) -> ReplicaPhase {
    ReplicaPhase::Refused { message: "for a reason".to_owned(), retryable: !is_final, explanation: None }
}

fn ready(ports: u16, tasks: u32) -> ReplicaPhase {
    let task_ports = (1..=tasks).map(|i| ports + u16::try_from(i).unwrap()).collect();
    ReplicaPhase::Ready {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        master_port: ports,
        task_ports,
        probe_port: None,
        image: None,
    }
}

/// A careful agent starts only with the ports that it holds.
fn holds(phase: &ReplicaPhase, wish: &DesiredReplica, rendezvous: &Rendezvous) -> bool {
    let ReplicaPhase::Ready { task_ports, .. } = phase else { return false };
    let mine = rendezvous.peers.iter().filter(|peer| peer.node_rank == wish.placement.node_rank);
    mine.map(|peer| peer.port).eq(task_ports.iter().copied())
}

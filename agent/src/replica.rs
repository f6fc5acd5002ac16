//! A replica as this agent knows it.
//!
//! `Queued → Preparing → Ready → Starting → (Cancelling →) Started → (Stopping →) Finishing → Ended → Removing`;
//! `Refused` after a preparation that failed. `Preparing`, `Starting`, `Cancelling`, `Finishing` and `Removing` have
//! a worker; the others wait for the plan.

use std::collections::BTreeMap;
use std::net::IpAddr;

use convoke_model::{
    DesiredReplica, DeviceId, DeviceKind, Explanation, ObservedReplica, ObservedTask, Rank, RankLayout,
    ReplicaKey, ReplicaPhase, TaskPhase, Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::runtime::TaskStatus;

/// Every replica that the agent knows, wanted or not.
pub type Known<'a> = BTreeMap<&'a ReplicaKey, &'a Replica>;

/// One replica: what was asked for last, how far it is, and its tasks by first rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Replica {
    /// As last seen in a desired state; its goal may be outdated when it is no longer wanted.
    pub desired: DesiredReplica,
    pub stage: Stage,
    /// By first rank; `None` until the task is started.
    pub tasks: BTreeMap<Rank, Option<TaskStatus>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// Nothing is held yet; it waits for its devices to be free.
    Queued,
    Preparing,
    Ready(Held),
    Refused {
        message: String,
        retryable: bool,
        explanation: Option<Box<Explanation>>,
    },
    Starting,
    /// The start was given up; what it began is on its way.
    Cancelling,
    /// At least one task was started; nothing is being done to them.
    Started,
    /// The tasks were asked to end, and should have by then.
    Stopping {
        until: Timestamp,
    },
    /// No process is left; finished checkpoints are being uploaded.
    Finishing,
    Ended,
    Removing,
}

/// What a ready replica holds, as its gang will be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub address: IpAddr,
    pub master_port: u16,
    /// One per task, in rank order.
    pub task_ports: Vec<u16>,
    /// Where this agent answers its peers' probes until the replica is over.
    #[serde(default)]
    pub probe_port: Option<u16>,
    /// The engine's id of the image that was prepared.
    #[serde(default)]
    pub image: Option<String>,
}

impl Replica {
    /// A replica of which nothing has been done yet.
    pub fn queued(desired: DesiredReplica) -> Self {
        let tasks = task_ranks(&desired).into_iter().map(|rank| (rank, None)).collect();
        Self { desired, stage: Stage::Queued, tasks }
    }

    /// Some task may still have a process.
    pub fn any_live(&self) -> bool {
        self.tasks.values().flatten().any(|status| !matches!(status, TaskStatus::Ended(_)))
    }

    /// Some task was not started yet.
    pub fn any_waiting(&self) -> bool {
        self.tasks.values().any(Option::is_none)
    }

    pub fn devices(&self) -> &[DeviceId] {
        &self.desired.placement.devices
    }

    /// Those of its devices that must be proven clean after it.
    pub fn gpus(&self) -> &[DeviceId] {
        match self.desired.spec.devices.kind {
            DeviceKind::Gpu => self.devices(),
            DeviceKind::Cpu => &[],
        }
    }

    /// True while nobody else may have its devices, nor another generation of its job run.
    pub fn holds_devices(&self) -> bool {
        match &self.stage {
            Stage::Queued | Stage::Refused { .. } | Stage::Ended | Stage::Removing => self.any_live(),
            // GPUs are held until they are proven clean.
            Stage::Finishing => !self.gpus().is_empty(),
            Stage::Preparing
            | Stage::Ready(_)
            | Stage::Starting
            | Stage::Cancelling
            | Stage::Started
            | Stage::Stopping { .. } => true,
        }
    }

    /// Tasks that the runtime knows, or that have ended.
    pub fn started(&self) -> Vec<Rank> {
        self.ranks(|_| true)
    }

    /// Tasks whose containers somebody has paused.
    pub fn paused(&self) -> Vec<Rank> {
        self.ranks(|status| matches!(status, TaskStatus::Running { paused: true, .. }))
    }

    fn ranks(&self, wanted: impl Fn(&TaskStatus) -> bool) -> Vec<Rank> {
        let found = self.tasks.iter().filter(|(_, status)| status.as_ref().is_some_and(&wanted));
        found.map(|(rank, _)| *rank).collect()
    }

    /// As the coordinator is told.
    pub fn observed(&self) -> ObservedReplica {
        let phase = match &self.stage {
            Stage::Queued | Stage::Preparing => ReplicaPhase::Preparing,
            Stage::Ready(held) => ReplicaPhase::Ready {
                address: held.address,
                master_port: held.master_port,
                task_ports: held.task_ports.clone(),
                probe_port: held.probe_port,
                image: held.image.clone(),
            },
            Stage::Refused { message, retryable, explanation } => ReplicaPhase::Refused {
                message: message.clone(),
                retryable: *retryable,
                explanation: explanation.clone(),
            },
            Stage::Starting
            | Stage::Cancelling
            | Stage::Started
            | Stage::Stopping { .. }
            | Stage::Finishing => ReplicaPhase::Started,
            Stage::Ended | Stage::Removing => ReplicaPhase::Ended,
        };
        let tasks = self
            .tasks
            .iter()
            .map(|(rank, status)| ObservedTask { rank: *rank, phase: task_phase(status.as_ref()) })
            .collect();
        ObservedReplica { key: self.desired.key(), phase, tasks, progress: None, conditions: Vec::new() }
    }
}

fn task_phase(status: Option<&TaskStatus>) -> TaskPhase {
    match status {
        None | Some(TaskStatus::Starting) => TaskPhase::Waiting,
        Some(TaskStatus::Running { pid, health, .. }) => TaskPhase::Running { pid: *pid, health: *health },
        Some(TaskStatus::Exited(exit) | TaskStatus::Ended(exit)) => TaskPhase::Exited(exit.clone()),
    }
}

/// The first rank of each of a replica's tasks.
pub fn task_ranks(desired: &DesiredReplica) -> Vec<Rank> {
    let placement = &desired.placement;
    match desired.spec.layout {
        RankLayout::PerNode => vec![placement.first_rank],
        RankLayout::PerGpu => (0..placement.local_world).map(|i| Rank(placement.first_rank.0 + i)).collect(),
    }
}

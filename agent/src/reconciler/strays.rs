//! Tasks that an earlier agent left and whose replica's record is damaged or gone.
//!
//! What is certain: they run, or ran, as the tasks of that job, generation and rank. So they are reported as that, hold
//! what they hold, and nobody starts them, or another generation beside them. What they are to be is what the
//! coordinator says next, as with all others: if it wants them they are taken over and their record is made anew, with
//! what the engine knows of their containers; if it does not, they are ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use convoke_model::{
    DesiredReplica, DeviceId, DeviceKind, JobName, JobSpec, Rank, RankLayout, ReplicaGoal, ReplicaKey,
    ReplicaPlacement,
};
use tracing::{info, warn};

use super::recover::reserve;
use super::{Reconciler, Slot};
use crate::host::Host;
use crate::ledger::{LedgerError, Record};
use crate::replica::{Replica, Stage, task_ranks};
use crate::runtime::docker::Described;
use crate::runtime::{DAMAGED_RECORD, TaskKey};
use crate::work::{Inside, about};

/// What a replica without a record is known by.
#[derive(Debug)]
pub(super) enum Stray {
    Processes {
        gpus: Vec<DeviceId>,
    },
    /// One of its containers; `None` while the engine cannot tell.
    Containers(Option<Described>),
}

impl Stray {
    fn gpus(&self) -> &[DeviceId] {
        match self {
            Self::Processes { gpus } => gpus,
            Self::Containers(described) => described.as_ref().map_or(&[], |described| &described.gpus),
        }
    }
}

impl Reconciler {
    /// Takes up the tasks without a record. `damaged` says why there is none, by replica.
    pub(super) async fn take_strays(
        &mut self,
        tasks: Vec<TaskKey>,
        damaged: &BTreeMap<ReplicaKey, LedgerError>,
    ) {
        let mut strays: BTreeMap<ReplicaKey, BTreeSet<Rank>> = BTreeMap::new();
        for task in tasks.into_iter().filter(|task| !self.slots.contains_key(&task.replica)) {
            strays.entry(task.replica).or_default().insert(task.rank);
        }
        for (key, error) in damaged.iter().filter(|(key, _)| !strays.contains_key(key)) {
            let text = format!(
                "{error}; nothing of job {} generation {} runs, and what is left of it stays: delete {} if it is not \
                 needed",
                key.job,
                key.generation,
                self.host.home.replica_dir(key).display()
            );
            self.host.conditions.raise(DAMAGED_RECORD, &about(key), text);
        }
        for (key, ranks) in strays {
            let why = damaged.get(&key).map_or("it has no record".to_owned(), ToString::to_string);
            let text = format!(
                "job {} generation {} runs here, and {why}; it goes on, and is taken over once the coordinator says that \
                 it wants it, or ended if it says that it does not",
                key.job, key.generation
            );
            self.host.conditions.raise(DAMAGED_RECORD, &about(&key), text);
            let slot = Slot::stray(&self.host, key.clone(), &ranks).await;
            self.slots.insert(key, slot);
        }
    }
}

impl Slot {
    async fn stray(host: &Arc<Host>, key: ReplicaKey, ranks: &BTreeSet<Rank>) -> Self {
        let tasks: Vec<TaskKey> =
            ranks.iter().map(|rank| TaskKey { replica: key.clone(), rank: *rank }).collect();
        let stray = stray(host, &tasks).await;
        let desired = presumed(host, &key, ranks, &stray);
        let mut replica = Replica::queued(desired.clone());
        for (task, status) in tasks.iter().filter_map(|task| Some((task, host.runtime.status(task)?))) {
            replica.tasks.insert(task.rank, Some(status));
        }
        replica.stage = Stage::Started;
        reserve(host, &key, &replica);
        let mut slot = Self::new(replica, Record::new(desired));
        slot.stray = Some(stray);
        slot
    }

    /// It is known now what these tasks are.
    pub(super) fn adopt(&mut self, host: &Arc<Host>, desired: &DesiredReplica) {
        let Some(stray) = self.stray.take() else { return };
        let key = desired.key();
        self.replica.desired = desired.clone();
        let ranks = task_ranks(desired);
        self.replica.tasks.retain(|rank, status| status.is_some() || ranks.contains(rank));
        for rank in ranks {
            self.replica.tasks.entry(rank).or_insert(None);
        }
        host.reservations().release(&key);
        reserve(host, &key, &self.replica);
        self.record = Record::new(desired.clone());
        if let ReplicaGoal::Running(rendezvous) = &desired.goal {
            self.record.rendezvous = Some(rendezvous.clone());
        }
        self.record.inside = inside(host, desired, &stray);
        let told = !matches!(stray, Stray::Containers(None));
        if told && self.write(host) {
            host.conditions.clear(DAMAGED_RECORD, &about(&key));
        } else {
            // The next agent tries again.
            warn!(job = %key.job, generation = %key.generation, "its record could not be made anew");
        }
        let started = self.replica.started();
        info!(job = %key.job, generation = %key.generation, tasks = started.len(), "taken over without its record");
        self.go_on(host, &started);
    }
}

async fn stray(host: &Host, tasks: &[TaskKey]) -> Stray {
    let contained = |task: &&TaskKey| host.runtime.task_dir(task).is_container();
    let Some(task) = tasks.iter().find(contained) else {
        let records = tasks.iter().filter_map(|task| host.runtime.task_dir(task).record().ok().flatten());
        let inventory = host.devices.inventory();
        let is_gpu = |id: &DeviceId| inventory.iter().any(|d| d.id == *id && d.kind == DeviceKind::Gpu);
        let visible = records.filter_map(|record| record.environment.get("CUDA_VISIBLE_DEVICES").cloned());
        let ids = visible
            .flat_map(|ids| ids.split(',').filter_map(|id| DeviceId::new(id).ok()).collect::<Vec<_>>());
        let gpus: BTreeSet<DeviceId> = ids.filter(is_gpu).collect();
        return Stray::Processes { gpus: gpus.into_iter().collect() };
    };
    let Some(docker) = &host.docker else { return Stray::Containers(None) };
    Stray::Containers(docker.describe(task).await.ok())
}

/// As little as may be said of a replica whose tasks are all that is known.
fn presumed(host: &Host, key: &ReplicaKey, ranks: &BTreeSet<Rank>, stray: &Stray) -> DesiredReplica {
    let name = JobName::new(key.job.as_str()).or_else(|_| JobName::new("unknown")).expect("it is a name");
    let mut spec = JobSpec::processes(name, Vec::new());
    // Each of them is a task, whatever it counts for in its gang.
    spec.layout = RankLayout::PerGpu;
    if let Stray::Containers(described) = stray {
        spec.image = Some(described.as_ref().map_or_else(String::new, |described| described.image.clone()));
    }
    if !stray.gpus().is_empty() {
        spec.devices.kind = DeviceKind::Gpu;
    }
    let first_rank = ranks.first().copied().unwrap_or(Rank(0));
    let last = ranks.last().copied().unwrap_or(first_rank);
    let placement = ReplicaPlacement {
        node: host.node.clone(),
        node_rank: key.node_rank,
        devices: stray.gpus().to_vec(),
        first_rank,
        local_world: last.0 - first_rank.0 + 1,
    };
    DesiredReplica {
        job: key.job.clone(),
        generation: key.generation,
        spec,
        placement,
        world_size: last.0 + 1,
        node_count: 1,
        goal: ReplicaGoal::Prepared,
        resume_from: None,
        predecessors: Vec::new(),
    }
}

fn inside(host: &Host, desired: &DesiredReplica, stray: &Stray) -> Option<Inside> {
    match stray {
        Stray::Processes { .. } => None,
        Stray::Containers(Some(described)) => {
            Some(Inside::of_container(desired, described, &host.home.replica_dir(&desired.key())))
        }
        Stray::Containers(None) => Some(Inside { image: String::new(), checkpoints: None }),
    }
}

//! The start of an agent: what an earlier one left is found, watched and reported again.

use std::collections::BTreeMap;
use std::sync::Arc;

use convoke_model::{ObservedState, Rank, ReplicaKey};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use super::{Reconciler, Slot};
use crate::host::Host;
use crate::ledger::{self, LedgerError, Record};
use crate::replica::{Replica, Stage};
use crate::runtime::{RuntimeError, TaskStatus};

/// Why the agent cannot take up its work again.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("the agent's ledger cannot be read; move the file that is named away to start without it")]
    Ledger(#[from] LedgerError),
    #[error("the tasks of an earlier agent cannot be found again")]
    Runtime(#[from] RuntimeError),
}

impl Reconciler {
    /// Finds the tasks and records of an earlier agent.
    pub async fn recover(host: Arc<Host>) -> Result<Self, RecoverError> {
        let stamp = ledger::accepted(&host.home)?;
        let (records, broken) = ledger::records(&host.home)?;
        let tasks = host.runtime.recover().await?;
        let mut slots = BTreeMap::new();
        for record in records {
            slots.insert(record.desired.key(), recovered(&host, record));
        }
        let known = slots.keys().chain(tasks.iter().map(|task| &task.replica)).cloned().collect();
        host.files.sweep(&known);
        let mut kept = host.files.kept();
        let mut recovered = Self {
            host,
            desired: None,
            stamp,
            unwritten: None,
            slots,
            workers: JoinSet::new(),
            explaining: JoinSet::new(),
            kept: Default::default(),
            observed: watch::Sender::new(ObservedState::default()),
        };
        recovered.take_strays(tasks, &broken).await;
        // What still runs, if without its record, owes for as long as it runs.
        kept.retain(|key| !recovered.slots.contains_key(key));
        kept.into_iter().for_each(|key| recovered.keep(key, None));
        Ok(recovered.with_first_look())
    }

    fn with_first_look(mut self) -> Self {
        self.refresh();
        self.publish();
        self
    }
}

fn recovered(host: &Arc<Host>, record: Record) -> Slot {
    let key = record.desired.key();
    let mut replica = Replica::queued(record.desired.clone());
    for (rank, status) in &mut replica.tasks {
        let task = crate::runtime::TaskKey { replica: key.clone(), rank: *rank };
        *status =
            host.runtime.status(&task).or_else(|| record.exits.get(rank).cloned().map(TaskStatus::Ended));
    }
    let started = replica.started();
    if record.ended {
        replica.stage = Stage::Ended;
    } else if !started.is_empty() {
        replica.stage = Stage::Started;
        reserve(host, &key, &replica);
    }
    info!(job = %key.job, generation = %key.generation, tasks = started.len(), "taken over");
    let mut slot = Slot::new(replica, record);
    slot.recall();
    slot.go_on(host, &started);
    slot
}

impl Slot {
    /// With what is beside the tasks that an earlier agent started.
    pub(super) fn go_on(&mut self, host: &Arc<Host>, started: &[Rank]) {
        self.open_services(host, started);
        if self.replica.stage == Stage::Started {
            self.watch_meeting(host);
        }
    }
}

pub(super) fn reserve(host: &Host, key: &ReplicaKey, replica: &Replica) {
    let inventory = host.devices.inventory();
    let reserved = host.reservations().reserve(key, replica.devices(), &inventory);
    if let Err(error) = reserved {
        host.reservations().hold(key, replica.devices());
        host.conditions.raise("DeviceMissing", &crate::work::about(key), format!("a running task's {error}"));
    }
}

//! The one task that owns what this agent knows: desired states come in, workers and runtimes
//! report, the plan decides, workers do, and the observed state goes out.
//!
//! It never waits for a worker. A worker is one future for one replica, and a replica has at most
//! one. Nothing is done before a desired state was accepted in this life of the agent: what was
//! found after a restart is watched and reported, not touched.

mod execute;
mod explain;
mod kept;
mod recover;
mod strays;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use convoke_model::{
    ClusterId, Condition, DesiredReplica, DesiredState, ExitStatus, ObservedReplica, ObservedState, Rank,
    ReplicaGoal, ReplicaKey, TaskExit,
};
use convoke_transport::Shutdown;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{error, info, warn};

use crate::accept::{Stamp, accept};
use crate::clock::now;
use crate::files::collect::Collector;
use crate::host::Host;
use crate::ledger::{self, LedgerError, Record};
use crate::peers::ProbeListener;
use crate::plan::plan;
use crate::ports::HeldPort;
use crate::replica::{Known, Replica};
use crate::runtime::{DAMAGED_RECORD, TaskKey, TaskStatus};
use crate::services::TaskServices;
use crate::work::{Prepared, Refusal, about};

pub use recover::RecoverError;

use explain::{Explained, Explaining};
use kept::Keeping;
use strays::Stray;

/// Some steps are due by time alone, such as repeating a stop: how often the plan is made anew.
const TICK: Duration = Duration::from_secs(1);

/// A desired state, and the cluster that this agent belongs to.
#[derive(Debug)]
pub struct Incoming {
    pub own: ClusterId,
    pub desired: DesiredState,
}

/// How a worker ended.
enum Done {
    Prepared(Result<Box<Prepared>, Refusal>),
    /// Exits of the tasks that could not be started; or why none was.
    Started(Result<BTreeMap<Rank, TaskExit>, Refusal>),
    /// The start was given up.
    Cancelled,
    StopRequested,
    Finished,
    Removed {
        /// Something that it owes stays.
        kept: bool,
    },
}

/// A replica and all that belongs to it.
struct Slot {
    replica: Replica,
    record: Record,
    ports: Vec<HeldPort>,
    probe: Option<ProbeListener>,
    /// Watches the rendezvous, on node rank 0.
    meeting: JoinSet<()>,
    services: BTreeMap<Rank, TaskServices>,
    /// By the first rank of each task that failed.
    explained: BTreeMap<Rank, Explained>,
    /// `None` if nothing comes back.
    collector: Option<Collector>,
    /// Its record was lost, and no desired state has said yet what it is.
    stray: Option<Stray>,
    worker: Option<AbortHandle>,
    /// Dropped, it cancels the start that is under way.
    starting: Option<oneshot::Sender<Infallible>>,
}

pub struct Reconciler {
    host: Arc<Host>,
    /// The last one accepted in this life.
    desired: Option<DesiredState>,
    stamp: Option<Stamp>,
    /// Acceptable, but its stamp could not be written; tried again at every tick.
    unwritten: Option<Incoming>,
    slots: BTreeMap<ReplicaKey, Slot>,
    /// At most one for each replica.
    workers: JoinSet<(ReplicaKey, Done)>,
    explaining: Explaining,
    kept: Keeping,
    observed: watch::Sender<ObservedState>,
}

impl Reconciler {
    /// What the coordinator is to be told, now and after every change.
    pub fn observed(&self) -> watch::Receiver<ObservedState> {
        self.observed.subscribe()
    }

    /// Runs until `shutdown` begins. Tasks are left running.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Incoming>, mut shutdown: Shutdown) {
        let mut statuses = self.host.runtime.changes();
        let mut conditions = self.host.conditions.subscribe();
        let mut warnings = self.host.warnings.subscribe();
        let mut progress = self.host.progresses.subscribe();
        let mut problems = self.host.gpus.problems();
        let mut tick = tokio::time::interval(TICK);
        loop {
            // Before they are read, so that no change falls between reading and waiting.
            statuses.mark_unchanged();
            conditions.mark_unchanged();
            warnings.mark_unchanged();
            progress.mark_unchanged();
            problems.mark_unchanged();
            self.refresh();
            self.act();
            self.publish();
            tokio::select! {
                () = shutdown.begun() => return,
                Some(incoming) = inbox.recv() => self.take(incoming),
                Some(explained) = self.explaining.join_next() => match explained {
                    Ok((task, explanation)) => self.learn(&task, explanation),
                    Err(failure) => error!("an explanation failed, this is a bug in convoke-agent: {failure}"),
                },
                Some(joined) = self.workers.join_next_with_id() => self.joined(joined),
                Some(joined) = self.kept.next() => self.kept.ended(&self.host, joined),
                _ = statuses.changed() => {}
                _ = conditions.changed() => {}
                _ = warnings.changed() => {}
                _ = progress.changed() => {}
                _ = problems.changed() => {}
                _ = tick.tick() => self.retry(),
            }
        }
    }

    /// Accepts the desired state, durably, or says why not.
    fn take(&mut self, incoming: Incoming) {
        let Incoming { own, desired } = incoming;
        let conditions = &self.host.conditions;
        let stamp = match accept(&own, self.stamp.as_ref(), &desired) {
            Ok(stamp) => stamp,
            Err(refused) => return conditions.raise(refused.condition(), "", refused.to_string()),
        };
        if self.stamp.as_ref() != Some(&stamp)
            && let Err(error) = ledger::write(&self.host.home.accepted_file(), &stamp)
        {
            ledger_failed(&self.host, &error);
            self.unwritten = Some(Incoming { own, desired });
            return;
        }
        self.unwritten = None;
        for name in ["ForeignDesiredState", "StaleDesiredState", "LedgerFailed"] {
            conditions.clear(name, "");
        }
        self.stamp = Some(stamp);
        for replica in &desired.replicas {
            self.want(replica);
        }
        self.desired = Some(desired);
    }

    /// Tries again what the disk did not take: a stamp, or a replica's record.
    fn retry(&mut self) {
        if let Some(incoming) = self.unwritten.take() {
            return self.take(incoming);
        }
        let Some(desired) = self.desired.take() else { return };
        let unknown = |r: &&DesiredReplica| !self.slots.contains_key(&r.key());
        let missing: Vec<&DesiredReplica> = desired.replicas.iter().filter(unknown).collect();
        for replica in &missing {
            self.want(replica);
        }
        if !missing.is_empty() && missing.iter().all(|r| self.slots.contains_key(&r.key())) {
            self.host.conditions.clear("LedgerFailed", "");
        }
        self.desired = Some(desired);
    }

    /// Takes up a replica, or its new goal.
    fn want(&mut self, desired: &DesiredReplica) {
        let key = desired.key();
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.adopt(&self.host, desired);
            slot.replica.desired.goal = desired.goal.clone();
            return;
        }
        if matches!(desired.goal, ReplicaGoal::Stopped { .. }) {
            return;
        }
        let record = Record::new(desired.clone());
        if let Err(error) = ledger::write_record(&self.host.home, &record) {
            return ledger_failed(&self.host, &error);
        }
        self.host.conditions.clear(DAMAGED_RECORD, &about(&key));
        info!(job = %key.job, generation = %key.generation, "new replica");
        self.slots.insert(key, Slot::new(Replica::queued(desired.clone()), record));
    }

    /// Reads every task's status from the runtime.
    fn refresh(&mut self) {
        let Self { host, slots, explaining, .. } = self;
        for slot in slots.values_mut() {
            for task in slot.tasks() {
                let rank = task.rank;
                let own = slot.record.exits.get(&rank).cloned().map(TaskStatus::Ended);
                let status = match (host.runtime.status(&task), own) {
                    (Some(seen), _) => Some(slot.explained(host, explaining, task, seen)),
                    (None, Some(own)) => Some(own),
                    (None, None) if slot.runs(rank) => {
                        warn!(%task, "vanished from its runtime");
                        Some(TaskStatus::Ended(vanished()))
                    }
                    (None, None) if slot.replica.tasks[&rank] == Some(TaskStatus::Starting) => None,
                    (None, None) => continue,
                };
                slot.replica.tasks.insert(rank, status);
            }
        }
    }

    /// Does what the plan says until it has nothing more to say. Ends, because every action moves
    /// its replica to a later stage.
    fn act(&mut self) {
        let Some(desired) = self.desired.take() else { return };
        loop {
            let known: Known<'_> = self.slots.iter().map(|(key, slot)| (key, &slot.replica)).collect();
            let actions = plan(&desired, &known, now());
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.execute(action);
            }
        }
        self.desired = Some(desired);
    }

    fn publish(&self) {
        let observed = ObservedState {
            applied: self.stamp.as_ref().map(|s| (s.epoch, s.revision)),
            replicas: self
                .slots
                .iter()
                .map(|(key, slot)| self.observe(key, slot))
                .chain(self.observe_kept())
                .collect(),
            conditions: self.host.conditions.list(),
            device_conditions: self.host.gpus.problems().borrow().clone(),
        };
        self.observed.send_if_modified(|last| {
            let changed = *last != observed;
            *last = observed;
            changed
        });
    }
}

impl Reconciler {
    fn observe(&self, key: &ReplicaKey, slot: &Slot) -> ObservedReplica {
        let paused = slot.replica.paused();
        let conditions =
            self.host.warnings.about(&about(key)).into_iter().chain(self.paused(key, &paused)).collect();
        ObservedReplica { conditions, progress: self.host.progresses.of(key), ..slot.replica.observed() }
    }

    /// A paused task runs, and gets nowhere: neither it nor its gang can tell why.
    fn paused(&self, replica: &ReplicaKey, ranks: &[Rank]) -> Option<Condition> {
        let container = |rank: &Rank| {
            let task = TaskKey { replica: replica.clone(), rank: *rank };
            let id = self.host.docker.as_ref()?.container(&task)?;
            // As `docker ps` shows it.
            Some(id.get(..12).unwrap_or(&id).to_owned())
        };
        let ids: Vec<String> = ranks.iter().filter_map(container).collect();
        let all = ids.join(" ");
        let message =
            format!("paused by somebody: {all}; `docker unpause {all}` on the node lets the job go on");
        let name = Condition::TASK_PAUSED.to_owned();
        (!ids.is_empty()).then_some(Condition { name, message })
    }
}

impl Slot {
    fn new(replica: Replica, record: Record) -> Self {
        Self {
            replica,
            record,
            ports: Vec::new(),
            probe: None,
            meeting: JoinSet::new(),
            services: BTreeMap::new(),
            explained: BTreeMap::new(),
            collector: None,
            stray: None,
            worker: None,
            starting: None,
        }
    }

    /// The task was started, and is not known to have ended.
    fn runs(&self, rank: Rank) -> bool {
        matches!(self.replica.tasks.get(&rank), Some(Some(TaskStatus::Running { .. })))
    }

    /// The tasks that were ever started.
    fn tasks(&self) -> Vec<TaskKey> {
        let replica = self.replica.desired.key();
        self.replica.tasks.keys().map(|rank| TaskKey { replica: replica.clone(), rank: *rank }).collect()
    }

    fn abort_worker(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.abort();
        }
    }
}

fn ledger_failed(host: &Host, error: &LedgerError) {
    host.conditions.raise("LedgerFailed", "", format!("{error}: {}", source_of(error)));
}

fn source_of(error: &dyn std::error::Error) -> String {
    error.source().map(ToString::to_string).unwrap_or_default()
}

fn vanished() -> TaskExit {
    let message = "its files vanished from the agent's state directory".to_owned();
    TaskExit { message: Some(message), ..TaskExit::new(ExitStatus::Unknown, now()) }
}

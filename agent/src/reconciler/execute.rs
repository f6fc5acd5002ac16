//! Actions become workers, and workers' results become stages.

use std::sync::Arc;

use convoke_model::{NodeRank, Rank, Rendezvous, ReplicaKey};
use tokio::sync::oneshot;
use tokio::task::JoinError;
use tracing::{error, info};

use super::{Done, Reconciler, Slot, ledger_failed};
use crate::clock::now;
use crate::devices::gpus::Traces;
use crate::files::collect::Collector;
use crate::files::owed::Owed;
use crate::host::Host;
use crate::ledger;
use crate::peers::watch_meeting;
use crate::plan::Action;
use crate::replica::Stage;
use crate::services::TaskServices;
use crate::work::{self, Refusal};

type Joined = Result<(tokio::task::Id, (ReplicaKey, Done)), JoinError>;

impl Reconciler {
    pub(super) fn execute(&mut self, action: Action) {
        match action {
            Action::Prepare(key) => self.prepare(key),
            Action::Start(key, rendezvous) => self.start(key, rendezvous),
            Action::Cancel(key) => {
                let Some(slot) = self.slots.get_mut(&key) else { return };
                info!(job = %key.job, generation = %key.generation, "its start is given up");
                slot.replica.stage = Stage::Cancelling;
                slot.starting = None;
            }
            Action::Stop(key, grace) => {
                let Some(slot) = self.slots.get_mut(&key) else { return };
                info!(job = %key.job, generation = %key.generation, grace = ?grace, "stopping");
                slot.replica.stage = Stage::Stopping { until: now().after(grace) };
                let (host, tasks) = (self.host.clone(), slot.tasks());
                self.spawn(key, async move {
                    work::stop(&host, &tasks, grace).await;
                    Done::StopRequested
                });
            }
            Action::Abandon(key) => {
                let Some(slot) = self.slots.get_mut(&key) else { return };
                slot.abandon(&self.host);
                slot.end(&self.host);
            }
            Action::Finish(key) => self.finish(key),
            Action::Remove(key) => self.remove(key),
        }
    }

    fn prepare(&mut self, key: ReplicaKey) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        // Here and not in the worker: what is reserved and released by one task needs no care about
        // a worker that is aborted in between.
        let inventory = self.host.devices.inventory();
        let reserved = self.host.reservations().reserve(&key, slot.replica.devices(), &inventory);
        if let Err(error) = reserved {
            return slot.advance(&self.host, Done::Prepared(Err(Refusal::for_now(error))));
        }
        slot.replica.stage = Stage::Preparing;
        let (host, desired) = (self.host.clone(), slot.replica.desired.clone());
        self.spawn(key, async move {
            Done::Prepared(match work::prepare(&host, &desired).await {
                Ok(prepared) => Ok(Box::new(prepared)),
                Err(refusal) => Err(refusal.explained(&host, &desired).await),
            })
        });
    }

    fn start(&mut self, key: ReplicaKey, rendezvous: Rendezvous) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.record.rendezvous = Some(rendezvous.clone());
        if let Err(error) = ledger::write_record(&self.host.home, &slot.record) {
            // Without it the tasks could not be taken over later; a failed start is the smaller harm.
            ledger_failed(&self.host, &error);
        }
        slot.replica.stage = Stage::Starting;
        // From here on anybody may bind them: their tasks are about to.
        slot.ports.clear();
        let ranks: Vec<Rank> =
            slot.replica.tasks.iter().filter(|(_, status)| status.is_none()).map(|(rank, _)| *rank).collect();
        slot.open_services(&self.host, &ranks);
        let cluster = self.stamp.as_ref().map(|stamp| stamp.cluster.clone());
        let start = work::Start { record: slot.record.clone(), rendezvous, ranks, cluster };
        let host = self.host.clone();
        let (starting, cancelled) = oneshot::channel();
        slot.starting = Some(starting);
        self.spawn(key, async move {
            // Not by aborting: what the start has begun must be known to the runtime before anything follows.
            tokio::select! {
                biased;
                _ = cancelled => Done::Cancelled,
                started = work::start(&host, &start) => Done::Started(started),
            }
        });
    }

    fn finish(&mut self, key: ReplicaKey) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.replica.stage = Stage::Finishing;
        let gpus = slot.replica.gpus().to_vec();
        if gpus.is_empty() {
            self.host.reservations().release(&key);
        } else {
            let traces = Traces::of(&*self.host.runtime, &slot.tasks());
            self.host.cleaner.begin(&key, &gpus, traces);
        }
        let cleaner = self.host.cleaner.clone();
        let drains: Vec<_> = slot.services.values().map(TaskServices::drain_checkpoints).collect();
        let files = slot.collector.as_ref().map(Collector::drain);
        self.spawn(key, async move {
            let files = async {
                if let Some(files) = files {
                    files.await;
                }
            };
            // What is wrong with a GPU that is not clean stays with the GPU.
            let clean = cleaner.proven(&gpus);
            let _ = tokio::join!(futures::future::join_all(drains), files, clean);
            Done::Finished
        });
    }

    fn remove(&mut self, key: ReplicaKey) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.abandon(&self.host);
        slot.replica.stage = Stage::Removing;
        let services = std::mem::take(&mut slot.services).into_values().collect();
        let (host, tasks) = (self.host.clone(), slot.tasks());
        let worker_key = key.clone();
        self.spawn(key, async move {
            Done::Removed { kept: work::remove(&host, &worker_key, &tasks, services).await }
        });
    }

    /// Starts the replica's worker, in place of the one that it has.
    fn spawn(&mut self, key: ReplicaKey, work: impl Future<Output = Done> + Send + 'static) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        slot.abort_worker();
        slot.worker = Some(self.workers.spawn(async move { (key, work.await) }));
    }

    /// Takes a worker's result, unless another one has replaced it.
    pub(super) fn joined(&mut self, joined: Joined) {
        let id = joined.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let current = |slot: &Slot| slot.worker.as_ref().is_some_and(|w| w.id() == id);
        let Some((key, slot)) = self.slots.iter_mut().find(|(_, slot)| current(slot)) else { return };
        let key = key.clone();
        slot.worker = None;
        match joined {
            Ok((_, (_, Done::Removed { kept }))) => {
                let slot = self.slots.remove(&key);
                if kept {
                    self.keep(key.clone(), slot.and_then(|slot| slot.collector));
                }
                info!(job = %key.job, generation = %key.generation, "removed");
                self.collect_resume_checkpoints();
            }
            Ok((_, (_, done))) => slot.advance(&self.host, done),
            Err(failure) => {
                error!(job = %key.job, "a worker failed, this is a bug in convoke-agent: {failure}");
                slot.recover_from_bug(&self.host);
            }
        }
    }

    /// Deletes fetched checkpoints that no replica starts from any more.
    fn collect_resume_checkpoints(&self) {
        let used: Vec<_> =
            self.slots.values().filter_map(|s| s.replica.desired.resume_from.clone()).collect();
        let host = self.host.clone();
        tokio::task::spawn_blocking(move || crate::checkpoint::collect(&host.home, &used));
    }
}

impl Slot {
    fn advance(&mut self, host: &Arc<Host>, done: Done) {
        match done {
            Done::Prepared(Ok(prepared)) => {
                self.record.resume = prepared.resume;
                self.record.mounts = prepared.mounts;
                self.record.inside = prepared.inside;
                self.ports = prepared.ports;
                self.probe = prepared.probe;
                self.replica.stage = Stage::Ready(prepared.held);
            }
            Done::Prepared(Err(refusal)) | Done::Started(Err(refusal)) => self.refuse(host, refusal),
            Done::Started(Ok(failed)) => {
                self.replica.stage = Stage::Started;
                self.watch_meeting(host);
                if !failed.is_empty() {
                    self.record.exits.extend(failed);
                    self.write(host);
                }
            }
            Done::Cancelled => self.replica.stage = Stage::Started,
            Done::Finished => self.end(host),
            Done::StopRequested | Done::Removed { .. } => {}
        }
    }

    fn refuse(&mut self, host: &Host, refusal: Refusal) {
        info!(job = %self.replica.desired.job, "refused: {}", refusal.message);
        self.abandon(host);
        let Refusal { message, retryable, explanation } = refusal;
        self.replica.stage = Stage::Refused { message, retryable, explanation };
    }

    /// Node rank 0 of a gang of several nodes looks whether the others come.
    pub(super) fn watch_meeting(&mut self, host: &Host) {
        let desired = &self.replica.desired;
        let watches = desired.node_count > 1 && desired.placement.node_rank == NodeRank(0);
        if let Some(rendezvous) =
            self.record.rendezvous.clone().filter(|_| watches && self.meeting.is_empty())
        {
            let about = work::about(&desired.key());
            let (patience, warnings) = (host.meeting_patience, host.warnings.clone());
            self.meeting.spawn(watch_meeting(rendezvous, patience, warnings, about));
        }
    }

    /// Gives back what was prepared.
    fn abandon(&mut self, host: &Host) {
        self.abort_worker();
        self.ports.clear();
        self.probe = None;
        host.reservations().release(&self.replica.desired.key());
    }

    fn end(&mut self, host: &Host) {
        host.reservations().release(&self.replica.desired.key());
        self.probe = None;
        self.meeting.abort_all();
        self.replica.stage = Stage::Ended;
        self.record.ended = true;
        self.write(host);
    }

    /// False if it is not written. What is only presumed of a replica never is.
    pub(super) fn write(&self, host: &Host) -> bool {
        if self.stray.is_some() {
            return false;
        }
        let written = ledger::write_record(&host.home, &self.record);
        written.inspect_err(|error| ledger_failed(host, error)).is_ok()
    }

    /// The stage from which the plan finds a way on.
    fn recover_from_bug(&mut self, host: &Host) {
        self.replica.stage = match self.replica.stage {
            Stage::Starting | Stage::Cancelling | Stage::Started | Stage::Stopping { .. } => Stage::Started,
            Stage::Finishing | Stage::Ended | Stage::Removing => Stage::Ended,
            Stage::Queued | Stage::Preparing | Stage::Ready(_) | Stage::Refused { .. } => {
                self.abandon(host);
                Stage::Refused {
                    message: "the agent failed to prepare it; see its log".to_owned(),
                    retryable: true,
                    explanation: None,
                }
            }
        };
    }

    /// Makes sure that the tasks have their socket, their telemetry and their checkpoint watch, and the
    /// replica its collector.
    pub(super) fn open_services(&mut self, host: &Arc<Host>, ranks: &[Rank]) {
        let owes = || Owed::Files.is_marked(&host.home.replica_dir(&self.record.desired.key()));
        if self.collector.is_none() && !ranks.is_empty() && (!self.record.ended || owes()) {
            self.collector = Collector::open(&host.files, &self.record.desired);
            self.collector.iter().filter(|_| self.record.ended).for_each(Collector::resume_ended);
        }
        for rank in ranks {
            self.services.entry(*rank).or_insert_with(|| TaskServices::open(host, &self.record, *rank));
        }
    }
}

//! Where effects go: wake-ups for sessions and watchers, and a list of what is to be deleted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use convoke_core::Effect;
use convoke_model::{CheckpointRef, JobId};
use tokio::sync::{mpsc, watch};

use crate::sessions::Sessions;

/// Deletions that may wait; what does not fit is found by the next start, which removes whatever
/// the catalogue does not name.
const GARBAGE: usize = 1_000;

/// Files that nobody needs any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Garbage {
    Checkpoint(CheckpointRef),
    Job(JobId),
}

/// Everything that the owner wakes.
#[derive(Clone)]
pub(crate) struct Outlets {
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) jobs: Arc<Watchers>,
    /// The sequence of the next event.
    pub(crate) events: watch::Sender<u64>,
    garbage: mpsc::Sender<Garbage>,
}

/// Wakes those who look at a job. A wake-up carries no data; several count as one.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    /// An entry per job that somebody watches.
    jobs: Mutex<HashMap<JobId, watch::Sender<()>>>,
}

impl Watchers {
    /// Subscribe first, then read: what changes in between wakes.
    pub(crate) fn watch(&self, job: &JobId) -> watch::Receiver<()> {
        self.jobs().entry(job.clone()).or_insert_with(|| watch::channel(()).0).subscribe()
    }

    pub(crate) fn wake(&self, job: &JobId) {
        let mut jobs = self.jobs();
        if jobs.get(job).is_some_and(|sender| sender.send(()).is_err()) {
            jobs.remove(job);
        }
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, watch::Sender<()>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlets {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Garbage>) {
        let (garbage, collector) = mpsc::channel(GARBAGE);
        let outlets =
            Self { sessions: Arc::default(), jobs: Arc::default(), events: watch::channel(0).0, garbage };
        (outlets, collector)
    }

    pub(super) fn act(&self, effect: Effect, next_event: u64) {
        match effect {
            Effect::DesiredChanged(node) => self.sessions.wake(&node),
            Effect::NodeLost(node) => self.sessions.close(&node),
            Effect::JobChanged(job)
            | Effect::UniqueIdSet { job, .. }
            | Effect::GenerationEnded { job, .. }
            | Effect::CheckpointChanged(CheckpointRef { job, .. }) => self.jobs.wake(&job),
            Effect::JobForgotten(job) => {
                self.jobs.wake(&job);
                self.discard(Garbage::Job(job));
            }
            Effect::DeleteCheckpoint(reference) => self.discard(Garbage::Checkpoint(reference)),
            // Nobody watches nodes; `ListNodes` reads them.
            Effect::NodeChanged(_) => {}
            Effect::EventsAdded => {
                self.events.send_replace(next_event);
            }
        }
    }

    fn discard(&self, garbage: Garbage) {
        if let Err(error) = self.garbage.try_send(garbage) {
            tracing::warn!("{error}: left for the next start to delete");
        }
    }
}

//! The watch over one task's checkpoint directory: every finished step is uploaded, in order, once.
//!
//! Which steps are settled is kept on disk. A step is settled when the coordinator has stored it,
//! when it is no checkpoint, or when the generation is stale; until then its upload is tried again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cap_std::fs::MetadataExt as _;
use convoke_model::{CheckpointRef, Condition, Shard, Step};
use convoke_transport::Backoff;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

use super::shard::{self, step_name};
use super::upload::{UploadError, upload};
use crate::beneath::Beneath;
use crate::blocking::blocking;
use crate::files::collect::Motion;
use crate::files::owed::Owed;
use crate::host::Host;
use crate::ledger;
use crate::runtime::TaskKey;
use crate::work::about;

/// How often the directory is looked at. A rename makes a step visible whole, so nothing is missed
/// between looks.
const LOOK: Duration = Duration::from_millis(500);

/// An upload that fails for longer is a condition of the node, which placement then avoids; a
/// coordinator that restarts is not.
const PATIENCE: Duration = Duration::from_secs(15);

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With `complete`, every rank's shard was stored by then.
    Stored { complete: bool },
    /// It will never be stored, and why.
    Refused { message: String },
    /// It was there before the task: another generation's. Known by its inode and change time.
    Earlier { inode: u64, changed: i64 },
}

/// How far a watch is.
#[derive(Debug, Clone, Default)]
struct Progress {
    settled: BTreeMap<Step, Outcome>,
    /// The task has ended and every step is settled.
    drained: bool,
}

/// Handle to a task's watch.
#[derive(Debug, Clone)]
pub struct Watch {
    look: Arc<Notify>,
    ended: Arc<watch::Sender<bool>>,
    progress: watch::Receiver<Progress>,
    /// Whether what is to be stored moves.
    pub(crate) motion: Motion,
    /// Where the task leaves them.
    pub(crate) directory: Beneath,
}

/// The watch itself.
pub struct Watcher {
    host: Arc<Host>,
    task: TaskKey,
    directory: Beneath,
    /// Steps kept on this node once stored; `None` in a directory of the user's, where nothing is
    /// deleted.
    keep: Option<usize>,
    look: Arc<Notify>,
    ended: watch::Receiver<bool>,
    progress: watch::Sender<Progress>,
    motion: Motion,
}

impl Watch {
    /// Looks now, not at the next interval.
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// Whether anything is known of `step`.
    pub fn is_settled(&self, step: Step) -> bool {
        self.progress.borrow().settled.contains_key(&step)
    }

    /// Waits until `step` is settled. Bound it with a timeout. `None` if the watch ended first.
    pub async fn settled(&self, step: Step) -> Option<Outcome> {
        let mut progress = self.progress.clone();
        let settled =
            |p: &Progress| matches!(p.settled.get(&step), Some(o) if !matches!(o, Outcome::Earlier { .. }));
        let seen = progress.wait_for(settled).await.ok()?;
        seen.settled.get(&step).cloned()
    }

    /// The task has ended: waits until every step that it left is settled. Bound it with a timeout.
    pub async fn drained(&self) {
        self.ended.send_replace(true);
        self.look();
        let mut progress = self.progress.clone();
        // An error means that the watch is gone, and nothing is left to wait for.
        let _ = progress.wait_for(|p| p.drained).await;
    }
}

impl Watcher {
    /// A watch of a task that is about to be started, or was taken over.
    pub fn new(host: Arc<Host>, task: TaskKey, directory: Beneath, keep: Option<usize>) -> (Watch, Self) {
        let (look, ended) = (Arc::new(Notify::new()), watch::Sender::new(false));
        let file = settled_file(&host, &task);
        let settled = match ledger::read(&file) {
            Ok(Some(settled)) => settled,
            Ok(None) => earlier(&directory),
            Err(error) => {
                warn!(%task, "{error}; its checkpoints are offered again");
                BTreeMap::new()
            }
        };
        let progress = watch::Sender::new(Progress { settled, drained: false });
        let motion = Motion::default();
        let handle = Watch {
            look: look.clone(),
            progress: progress.subscribe(),
            ended: Arc::new(ended.clone()),
            motion: motion.clone(),
            directory: directory.clone(),
        };
        let watcher = Self { host, task, directory, keep, look, ended: ended.subscribe(), progress, motion };
        watcher.write();
        (handle, watcher)
    }

    /// Runs until the task has ended and every step is settled.
    pub async fn run(mut self) {
        loop {
            // Asked before looking: what an ended task left is all there.
            let ended = *self.ended.borrow();
            for step in self.pending() {
                let outcome = self.store(step).await;
                self.settle(step, outcome).await;
            }
            if ended {
                self.paid();
                self.progress.send_modify(|p| p.drained = true);
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = self.look.notified() => {}
                _ = self.ended.changed() => {}
            }
        }
    }

    /// Nothing of the task is owed any more.
    fn paid(&self) {
        let replica = &self.task.replica;
        let owed = Owed::Checkpoint(self.task.rank);
        if owed.is_marked(&self.host.home.replica_dir(replica)) {
            if let Err(error) = owed.clear(&self.host.home.replica_dir(replica)) {
                warn!(task = %self.task, "that its checkpoints are stored cannot be noted: {error}");
            }
            self.host.warnings.clear(Condition::CHECKPOINT_NOT_STORED, &about(replica));
        }
    }

    fn pending(&self) -> Vec<Step> {
        let steps = shard::steps(&self.directory).unwrap_or_else(|error| {
            self.host.conditions.raise(
                "CheckpointUnreadable",
                &self.task.to_string(),
                format!("checkpoints of {} cannot be listed: {error}", self.task),
            );
            Vec::new()
        });
        let progress = self.progress.borrow();
        let open = |step: &Step| match progress.settled.get(step) {
            None => true,
            Some(Outcome::Earlier { inode, changed }) => {
                identity(&self.directory.join(step_name(*step))) != Some((*inode, *changed))
            }
            Some(Outcome::Stored { .. } | Outcome::Refused { .. }) => false,
        };
        steps.into_iter().filter(open).collect()
    }

    /// Tries until the step is settled.
    async fn store(&self, step: Step) -> Outcome {
        let (mut backoff, began) = (Backoff::default(), Instant::now());
        let about = self.task.to_string();
        loop {
            match self.try_store(step).await {
                Ok(complete) => {
                    info!(task = %self.task, %step, "checkpoint stored");
                    self.host.conditions.clear("CheckpointUpload", &about);
                    return Outcome::Stored { complete };
                }
                Err(UploadError::Interrupted(problem)) if began.elapsed() < PATIENCE => {
                    debug!(task = %self.task, %step, "upload interrupted: {problem}");
                }
                Err(UploadError::Interrupted(problem)) => self.host.conditions.raise(
                    "CheckpointUpload",
                    &about,
                    format!("step {step} of {about} is not stored yet, trying again: {problem}"),
                ),
                Err(error @ UploadError::Stale) => {
                    info!(task = %self.task, %step, "checkpoint dropped: {error}");
                    return Outcome::Refused { message: error.to_string() };
                }
                Err(UploadError::Refused(problem)) => {
                    let message = format!("step {step} of {about} cannot be stored: {problem}");
                    self.host.conditions.raise("BadCheckpoint", &about, message.clone());
                    return Outcome::Refused { message };
                }
            }
            backoff.pause().await;
        }
    }

    async fn try_store(&self, step: Step) -> Result<bool, UploadError> {
        let directory = self.directory.join(step_name(step));
        let (hashed, motion) = (directory.clone(), self.motion.clone());
        let files = tokio::task::spawn_blocking(move || shard::files(&hashed, &motion))
            .await
            .map_err(|e| UploadError::Interrupted(e.to_string()))?
            .map_err(|e| UploadError::Refused(e.to_string()))?;
        let replica = &self.task.replica;
        let reference = CheckpointRef { job: replica.job.clone(), generation: replica.generation, step };
        let shard = Shard { rank: self.task.rank, files };
        upload(&self.host, &reference, shard, &directory, self.motion.clone()).await
    }

    async fn settle(&self, step: Step, outcome: Outcome) {
        self.motion.arrived();
        self.progress.send_modify(|p| {
            p.settled.insert(step, outcome);
        });
        self.write();
        self.prune().await;
    }

    fn write(&self) {
        let settled = self.progress.borrow().settled.clone();
        if let Err(error) = ledger::write(&settled_file(&self.host, &self.task), &settled) {
            warn!("{error}; stored checkpoints will be offered again after a restart");
        }
    }

    /// Deletes stored steps beyond those to keep, oldest first.
    async fn prune(&self) {
        let Some(keep) = self.keep else { return };
        let progress = self.progress.borrow().settled.clone();
        let stored = progress.iter().rev().filter(|(_, o)| matches!(o, Outcome::Stored { .. }));
        for (step, _) in stored.skip(keep) {
            let directory = self.directory.join(step_name(*step));
            let removing = blocking(move || match directory.remove_dir_all() {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    warn!("{directory} cannot be deleted: {error}");
                }
                _ => {}
            });
            // A thread that was lost has said so.
            let _ = removing.await;
        }
    }
}

/// The steps that are there already.
fn earlier(directory: &Beneath) -> BTreeMap<Step, Outcome> {
    let steps = shard::steps(directory).unwrap_or_default().into_iter();
    let outcome = |step| {
        let (inode, changed) = identity(&directory.join(step_name(step)))?;
        Some((step, Outcome::Earlier { inode, changed }))
    };
    steps.filter_map(outcome).collect()
}

/// Tells a directory from another one that took its name.
fn identity(path: &Beneath) -> Option<(u64, i64)> {
    let metadata = path.metadata().ok()?;
    Some((metadata.ino(), metadata.ctime()))
}

fn settled_file(host: &Host, task: &TaskKey) -> PathBuf {
    host.home.replica_dir(&task.replica).join(format!("uploaded-{}.json", task.rank))
}

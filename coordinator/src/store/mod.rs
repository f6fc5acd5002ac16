//! Checkpoint bytes, in a directory: `checkpoints/<job>/<generation>-<step>/rank-<r>/<files>`.
//!
//! A shard is received below `.tmp/`, checked while it is written, made durable, renamed into place,
//! and only then told to the core. What is in place but not in the catalogue (a crash in between)
//! is removed at start; what is deleted is renamed away first, so that half of it never shows.

mod collect;
mod read;
mod sweep;
mod write;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use convoke_model::{CheckpointRef, JobId, Rank};
use tokio::sync::Mutex;

pub(crate) use collect::collect;
pub(crate) use read::{CheckpointReader, Part};
pub(crate) use write::ShardWriter;

use crate::data_dir::{is_disk_full, sync_dir};
use crate::turns::{TRANSFERS, Turn, Turns};

/// Not a job id, which begins with a letter or digit.
const TEMPORARY: &str = ".tmp";

#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("file {path:?} of the shard cannot be laid out: another file has its name or its directory's")]
    BadPath { path: String },
    #[error("the shard ended {missing} bytes before the end of file {path:?}; send it again")]
    ShortBody { path: String, missing: u64 },
    #[error("the shard has bytes after its last file; the header's sizes are wrong")]
    ExtraBytes,
    #[error("file {path:?} of the shard has SHA-256 {found}, its header says {expected}; send it again")]
    HashMismatch { path: String, found: convoke_model::Digest, expected: convoke_model::Digest },
    #[error("the checkpoint cannot be stored: the coordinator's disk is full; free space on it")]
    DiskFull,
    #[error("file {path:?} of rank {rank} is damaged on the coordinator's disk; use an older checkpoint")]
    Damaged { rank: Rank, path: String },
    #[error("checkpoint step {} was deleted; a newer one has taken its place", .0.step)]
    Deleted(CheckpointRef),
    #[error("{TRANSFERS} checkpoint transfers are going on already; try again")]
    Busy,
    #[error("the checkpoint store cannot be read or written: {0}")]
    Io(io::Error),
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        if is_disk_full(&error) { Self::DiskFull } else { Self::Io(error) }
    }
}

/// The store; cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    root: Arc<Path>,
    turns: Turns,
    /// Held from looking at the catalogue until directory and catalogue agree again.
    changing: Arc<Mutex<()>>,
}

impl Store {
    /// Opens the store, and removes what was left half done and what `known` does not name.
    pub(crate) fn open(root: &Path, known: &BTreeSet<(CheckpointRef, Rank)>) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        sweep::sweep(root, known)?;
        std::fs::create_dir_all(root.join(TEMPORARY))?;
        sync_dir(root)?;
        Ok(Self { root: root.into(), turns: Turns::new(TRANSFERS), changing: Arc::default() })
    }

    /// A place for one transfer.
    pub(crate) async fn turn(&self) -> Result<Turn, StoreError> {
        self.turns.take().await.ok_or(StoreError::Busy)
    }

    pub(crate) async fn changing(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.changing.clone().lock_owned().await
    }

    /// A new directory that the next start removes, unless it is renamed into place.
    fn temporary(&self) -> io::Result<PathBuf> {
        let dir = self.root.join(TEMPORARY).join(uuid::Uuid::new_v4().to_string());
        std::fs::create_dir(&dir)?;
        Ok(dir)
    }

    fn job_dir(&self, job: &JobId) -> PathBuf {
        self.root.join(job.as_str())
    }

    fn checkpoint_dir(&self, reference: &CheckpointRef) -> PathBuf {
        self.job_dir(&reference.job).join(format!("{}-{}", reference.generation, reference.step))
    }

    pub(crate) fn shard_dir(&self, reference: &CheckpointRef, rank: Rank) -> PathBuf {
        self.checkpoint_dir(reference).join(format!("rank-{rank}"))
    }

    /// Removes one rank's shard, if it is there.
    pub(crate) fn remove_shard(&self, reference: &CheckpointRef, rank: Rank) -> io::Result<()> {
        self.remove(&self.shard_dir(reference, rank))
    }

    pub(crate) fn remove_checkpoint(&self, reference: &CheckpointRef) -> io::Result<()> {
        self.remove(&self.checkpoint_dir(reference))
    }

    pub(crate) fn remove_job(&self, job: &JobId) -> io::Result<()> {
        self.remove(&self.job_dir(job))
    }

    fn remove(&self, dir: &Path) -> io::Result<()> {
        let away = self.temporary()?;
        match std::fs::rename(dir, &away) {
            Ok(()) => {
                if let Some(parent) = dir.parent() {
                    sync_dir(parent)?;
                }
                std::fs::remove_dir_all(away)
            }
            Err(error) => {
                std::fs::remove_dir(away)?;
                if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
            }
        }
    }
}

#[cfg(test)]
mod tests;

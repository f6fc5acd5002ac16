//! Removing blobs that nobody needs: mark and sweep, in the background, at the start, after jobs were
//! forgotten and every so often.
//!
//! What is needed: the trees of remembered jobs, the artifacts that came back from them, and whatever
//! was stored or asked for within the time that is kept. Why a blob in use is never removed:
//! - the moment of the mark is fixed while nothing that refers to blobs is being decided
//!   ([`Files::referring`]): what refers later has touched its blobs after that moment, and the sweep
//!   removes only what was last touched before it;
//! - age and removal of one blob are one step ([`Blobs`] `places`): who was told that a blob is there
//!   has touched it before, and then it is not old.

use std::fs::DirEntry;
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use convoke_model::Digest;
use convoke_transport::Shutdown;

use super::{Blobs, DAMAGED, Files, TreeError};
use crate::database::DatabaseError;
use crate::owner::{Owner, Refused};

/// The least time between two sweeps: jobs are often forgotten one after the other.
const PAUSE: Duration = Duration::from_secs(60);

/// How far the time that a file system gives a change may be behind the clock: a tick of the kernel.
const TICK: Duration = Duration::from_millis(100);

/// What is needed, by the first eight bytes of each digest: of two that agree in these one may be kept
/// for nothing, never removed for nothing, and a million blobs take eight megabytes.
#[derive(Default)]
struct Marked(Vec<u64>);

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Catalogue(#[from] DatabaseError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Cancelled(#[from] tokio::task::JoinError),
}

/// Sweeps until shutdown, or until the owner is gone.
pub(crate) async fn sweep(files: Files, owner: Owner, mut shutdown: Shutdown) {
    loop {
        match sweep_once(&files, &owner, &shutdown).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!("removed {removed} blobs that no job refers to any more"),
            Err(Failed::Refused(Refused::Closed)) => return,
            Err(error) => tracing::warn!("blobs cannot be swept ({error}): tried again later"),
        }
        let every = files.blobs.options.sweep_every;
        let next = async {
            tokio::time::sleep(every.min(PAUSE)).await;
            // Whichever comes first; both mean the same.
            let _ = tokio::time::timeout(every.saturating_sub(PAUSE), files.forgotten.notified()).await;
        };
        tokio::select! {
            () = next => {}
            () = shutdown.begun() => return,
        }
    }
}

async fn sweep_once(files: &Files, owner: &Owner, shutdown: &Shutdown) -> Result<u64, Failed> {
    let (marked_at, trees) = {
        let _nothing_refers = files.referring.write().await;
        let marked_at = SystemTime::now();
        (marked_at, owner.read(|core, _| trees(core)).await?)
    };
    let keep = files.blobs.options.keep + TICK;
    let old = marked_at.checked_sub(keep).unwrap_or(SystemTime::UNIX_EPOCH);
    let marking = files.clone();
    let marked = tokio::task::spawn_blocking(move || mark(&marking, trees)).await??;
    let marked = Arc::new(marked);
    let mut removed = 0;
    // A directory at a time: between two of them other work comes to its turn.
    for prefix in 0..=u8::MAX {
        if shutdown.has_begun() {
            return Ok(removed);
        }
        let (blobs, marked) = (files.blobs.clone(), marked.clone());
        removed += tokio::task::spawn_blocking(move || blobs.sweep_prefix(prefix, &marked, old)).await??;
    }
    let blobs = files.blobs.clone();
    tokio::task::spawn_blocking(move || blobs.sweep_damaged(old)).await??;
    Ok(removed)
}

fn trees(core: &convoke_core::Core) -> Vec<Digest> {
    let specs = core.state().jobs.values().map(|job| &job.spec);
    let mut trees: Vec<Digest> = specs.flat_map(|spec| spec.trees()).map(|tree| tree.digest).collect();
    trees.sort_unstable();
    trees.dedup();
    trees
}

/// An error that may pass (a file that cannot be opened now) ends the sweep: nothing may be removed
/// because its manifest could not be read.
fn mark(files: &Files, trees: Vec<Digest>) -> Result<Marked, Failed> {
    let mut marked = Marked::default();
    for tree in trees {
        marked.add(&tree);
        match files.blobs.manifest(tree) {
            Ok(manifest) => manifest.blobs().for_each(|(digest, _)| marked.add(&digest)),
            Err(TreeError::Store(error)) => return Err(TreeError::Store(error).into()),
            // Its jobs cannot be laid out any more, and a new submit of them checks everything anew.
            Err(error) => tracing::warn!("a job's files are not complete: {error}"),
        }
    }
    files.catalogue.each_digest(|digest| marked.add(&digest))?;
    marked.0.sort_unstable();
    marked.0.dedup();
    Ok(marked)
}

impl Marked {
    fn key(digest: &Digest) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = digest.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    fn add(&mut self, digest: &Digest) {
        self.0.push(Self::key(digest));
    }

    fn has(&self, digest: &Digest) -> bool {
        self.0.binary_search(&Self::key(digest)).is_ok()
    }
}

impl Blobs {
    fn sweep_prefix(&self, prefix: u8, marked: &Marked, old: SystemTime) -> io::Result<u64> {
        let prefix = hex::encode([prefix]);
        let mut removed = 0;
        for entry in entries(&self.root.join(&prefix))? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let Ok(digest) = Digest::try_from(name) else { continue };
            if !marked.has(&digest) && is_old(&entry.path(), old)? {
                removed += u64::from(self.remove_if_old(&entry.path(), old)?);
            }
        }
        Ok(removed)
    }

    fn remove_if_old(&self, path: &Path, old: SystemTime) -> io::Result<bool> {
        let _alone = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let remove = is_old(path, old)?;
        if remove {
            std::fs::remove_file(path)?;
        }
        Ok(remove)
    }

    /// Damaged blobs are kept as long as others, for whoever looks for the cause.
    fn sweep_damaged(&self, old: SystemTime) -> io::Result<()> {
        for entry in entries(&self.root.join(DAMAGED))? {
            let path = entry?.path();
            if is_old(&path, old)? {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

fn entries(dir: &Path) -> io::Result<impl Iterator<Item = io::Result<DirEntry>>> {
    match std::fs::read_dir(dir) {
        Ok(entries) => Ok(Some(entries).into_iter().flatten()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        Err(error) => Err(error),
    }
}

/// Whether a blob was last touched before that; one that is gone is not old.
fn is_old(path: &Path, old: SystemTime) -> io::Result<bool> {
    match path.symlink_metadata() {
        Ok(found) => Ok(found.modified()? < old),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

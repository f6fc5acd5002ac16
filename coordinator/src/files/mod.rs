//! Files that travel: blobs by the SHA-256 of their bytes, in `blobs/<2 hex>/<62 hex>`.
//!
//! A blob is received below `.tmp/`, checked while it is written, made durable together with those
//! of its batch, and only then renamed into place: what is in place is whole. Nothing names blobs but
//! the jobs that refer to them; a blob that nobody refers to and nobody asked for within a day goes.
//! A blob whose bytes changed on the disk is moved to `.damaged/`, so that it can be stored again.

mod catalogue;
mod durable;
mod receive;
mod send;
mod space;
mod sweep;
mod trees;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use convoke_model::{Digest, JobId};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

pub(crate) use catalogue::{Catalogue, CatalogueError};
pub(crate) use receive::BlobWriter;
pub(crate) use send::{BlobReader, Part};
pub(crate) use sweep::sweep;
pub(crate) use trees::TreeError;

use tokio::sync::Notify;

use crate::BlobOptions;
use crate::data_dir::{is_disk_full, sync_dir};
use crate::database::DatabaseError;
use crate::turns::{TRANSFERS, Turn, Turns};
use space::Space;

/// Submits whose trees are checked at a time: the largest manifest takes half a gigabyte while it is
/// read.
const CHECKS: usize = 4;

/// Above any file that training writes: a larger size is a mistake.
const MAX_BLOB: u64 = 1 << 40;

/// Neither is a prefix of two hexadecimal digits.
const TEMPORARY: &str = ".tmp";
const DAMAGED: &str = ".damaged";

#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    #[error("blob {expected} has SHA-256 {found}: the file changed while it was sent; send it again")]
    HashMismatch { expected: Digest, found: Digest },
    #[error("{missing} bytes of blob {digest} did not come; send it again")]
    ShortBody { digest: Digest, missing: u64 },
    #[error("bytes came that belong to no blob: after the end of one, or before the first header")]
    ExtraBytes,
    #[error("blob {digest} has {size} bytes, more than {MAX_BLOB}")]
    TooLarge { digest: Digest, size: u64 },
    #[error(
        "the blob cannot be stored: the coordinator's disk is full but for what it keeps free for its own records; free space on it"
    )]
    DiskFull,
    #[error("blob {digest} has {size} bytes, and {offset} of them are to be left out")]
    BadOffset { digest: Digest, size: u64, offset: u64 },
    #[error("blob {0} is not stored here; send it again, with the files that it came with")]
    Unknown(Digest),
    #[error(
        "blob {0} was damaged on the coordinator's disk and has been put aside; send it again, with the files that it came with"
    )]
    Damaged(Digest),
    #[error("{TRANSFERS} transfers of files are going on already; try again")]
    Busy,
    #[error("the blob store cannot be read or written: {0}")]
    Io(io::Error),
}

impl From<io::Error> for BlobError {
    fn from(error: io::Error) -> Self {
        if is_disk_full(&error) { Self::DiskFull } else { Self::Io(error) }
    }
}

/// Blobs, and who refers to them; cheap to clone.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) blobs: Blobs,
    pub(crate) catalogue: Catalogue,
    /// Read from looking whether blobs are there until what refers to them is durable, or given up;
    /// written to look at all that is referred to, and to drop the artifacts of a job.
    pub(crate) referring: Arc<tokio::sync::RwLock<()>>,
    checks: Turns,
    /// A job was forgotten: its blobs may not be needed any more.
    forgotten: Arc<Notify>,
}

impl Files {
    pub(crate) fn new(blobs: Blobs, catalogue: Catalogue) -> Self {
        let checks = Turns::new(CHECKS);
        Self { blobs, catalogue, referring: Arc::default(), checks, forgotten: Arc::default() }
    }

    /// A place for one check of a job's trees.
    pub(crate) async fn check_turn(&self) -> Result<Turn, BlobError> {
        self.checks.take().await.ok_or(BlobError::Busy)
    }

    /// Drops what is kept of a job that the core has forgotten.
    pub(crate) async fn forget(&self, job: JobId) -> Result<(), DatabaseError> {
        let _nothing_refers = self.referring.write().await;
        let catalogue = self.catalogue.clone();
        let dropped = tokio::task::spawn_blocking(move || catalogue.forget(&job)).await;
        self.forgotten.notify_one();
        dropped.unwrap_or(Ok(()))
    }
}

/// The blob store; cheap to clone. Everything but [`Blobs::turn`] blocks on the disk.
#[derive(Clone)]
pub(crate) struct Blobs {
    root: Arc<Path>,
    turns: Turns,
    space: Arc<Space>,
    options: Arc<BlobOptions>,
    /// Read to touch blobs or to put them in place, written to remove some: between a look at a blob's
    /// age and its removal nobody can have been told that it is there.
    places: Arc<RwLock<()>>,
}

impl Blobs {
    /// Opens the store, and removes what was left half done.
    pub(crate) fn open(root: &Path, options: &BlobOptions) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        match std::fs::remove_dir_all(root.join(TEMPORARY)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(root.join(TEMPORARY))?;
        std::fs::create_dir_all(root.join(DAMAGED))?;
        sync_dir(root)?;
        Ok(Self {
            root: root.into(),
            turns: Turns::new(TRANSFERS),
            space: Arc::new(Space::new(root, options)),
            options: Arc::new(options.clone()),
            places: Arc::default(),
        })
    }

    /// Whether any blob is kept.
    pub(crate) fn any(&self) -> io::Result<bool> {
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            let is_prefix = entry.file_name().len() == 2;
            if is_prefix && std::fs::read_dir(entry.path())?.next().is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A place for one transfer.
    pub(crate) async fn turn(&self) -> Result<Turn, BlobError> {
        self.turns.take().await.ok_or(BlobError::Busy)
    }

    /// How long a sender may send nothing.
    pub(crate) fn stall(&self) -> Duration {
        self.options.stall
    }

    /// Which of these are not here. Those that are count as asked for now.
    pub(crate) fn missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, BlobError> {
        let mut missing = Vec::new();
        for digest in digests {
            if !self.touch(digest)? {
                missing.push(*digest);
            }
        }
        Ok(missing)
    }

    /// Marks a blob as asked for now; false if it is not here.
    fn touch(&self, digest: &Digest) -> io::Result<bool> {
        let _there = self.places.read().unwrap_or_else(PoisonError::into_inner);
        touch_file(&self.path(digest))
    }

    /// The size of a blob, which counts as asked for now; `None` if it is not here.
    fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
        if !self.touch(digest)? {
            return Ok(None);
        }
        match self.path(digest).metadata() {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The size of a blob as [`Self::size`] tells it, if it is `expected`. If not, the blob is read: one
    /// that is damaged is put aside, and is not here.
    pub(crate) fn size_checked(&self, digest: &Digest, expected: u64) -> Result<Option<u64>, BlobError> {
        let found = self.size(digest)?;
        if found.is_none_or(|found| found == expected) {
            return Ok(found);
        }
        let mut reader = BlobReader::over(self, vec![*digest]);
        loop {
            match reader.next() {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(found),
                Err(BlobError::Damaged(_) | BlobError::Unknown(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join(&name[..2]).join(&name[2..])
    }

    /// Puts the damaged file aside, unless a good one has taken its place meanwhile.
    fn put_aside(&self, digest: &Digest, opened: &std::fs::File) -> io::Result<()> {
        let _alone = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let (path, opened) = (self.path(digest), opened.metadata()?);
        match path.metadata() {
            Ok(found) if (found.dev(), found.ino()) == (opened.dev(), opened.ino()) => {
                std::fs::rename(&path, self.root.join(DAMAGED).join(digest.to_string()))
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Sets the time of the last change to now; false if the file is not there.
fn touch_file(path: &Path) -> io::Result<bool> {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: omit, last_modification: now };
    match rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;

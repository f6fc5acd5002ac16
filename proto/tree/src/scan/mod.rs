//! Reading a directory (or a single file) into a [`Manifest`].
//!
//! First a walk finds every entry and every reason to refuse one, then the files are hashed on a few
//! threads. What the [`DigestCache`] knows is not read again. A file that changes while it is read is
//! read once more; if it changes again the scan is refused, because half of a file is worse than none.

mod cache;
mod error;
mod hash;
mod ignored;
mod largest;
mod stamp;
mod walk;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use convoke_model::Digest;

pub use cache::DigestCache;
pub use error::ScanError;
pub use largest::Part;

use crate::{Entry, Kind, Manifest};
use stamp::Stamp;
use walk::{Found, FoundKind};

/// The file whose patterns (as in a `.gitignore`) leave entries out.
pub const IGNORE_FILE: &str = ".convokeignore";

#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Directory whose own ignore file applies too, as those between it and the root do, where the
    /// root lies below it.
    pub project: &'a Path,
    /// A tree of more bytes is refused before it is read.
    pub limit: u64,
}

/// How far a scan is, and the wish to end it: shared with whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    pub entries: AtomicU64,
    /// Bytes hashed, or known from the cache.
    pub bytes: AtomicU64,
    /// Bytes that there are; 0 until the walk is over.
    pub total: AtomicU64,
    pub cancelled: AtomicBool,
}

/// A tree and where its bytes are.
#[derive(Debug)]
pub struct Scanned {
    pub manifest: Manifest,
    /// One file for each content.
    pub files: BTreeMap<Digest, Source>,
    /// Where most of the bytes are, the largest first.
    pub largest: Vec<Part>,
}

/// A file as it was hashed.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: PathBuf,
    stamp: Stamp,
}

impl Source {
    /// `None` if it is not what was hashed any more.
    pub fn open(&self) -> io::Result<Option<File>> {
        let file = open(&self.path)?;
        Ok(self.is_unchanged(&file)?.then_some(file))
    }

    /// Whether an open file still has what was hashed.
    pub fn is_unchanged(&self, file: &File) -> io::Result<bool> {
        Ok(Stamp::of(&file.metadata()?) == self.stamp)
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.stamp.size
    }
}

/// Never through a link, and without waiting for a pipe's other end.
fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

impl Progress {
    fn check(&self) -> Result<(), ScanError> {
        if self.cancelled.load(Ordering::Relaxed) { Err(ScanError::Cancelled) } else { Ok(()) }
    }
}

/// Reads `root`; links on the way to it are followed, links below it are entries.
pub fn scan(
    root: &Path,
    options: &Options<'_>,
    cache: &mut DigestCache,
    progress: &Progress,
) -> Result<Scanned, ScanError> {
    let unreadable = |source| ScanError::Unreadable { path: root.to_owned(), source };
    let root = &root.canonicalize().map_err(unreadable)?;
    let found = walk::walk(root, options, progress)?;
    let largest = largest::largest(&found);
    let total: u64 = found.iter().map(Found::size).sum();
    if total > options.limit {
        return Err(ScanError::TooLarge { root: root.clone(), bytes: total, limit: options.limit, largest });
    }
    progress.total.fetch_add(total, Ordering::Relaxed);
    let hashed = hash::all(root, &found, cache, progress)?;
    let mut files = BTreeMap::new();
    let mut entries = Vec::with_capacity(found.len());
    for (found, hashed) in found.into_iter().zip(hashed) {
        let kind = match (found.kind, hashed) {
            (FoundKind::File(_), Some((stamp, digest))) => {
                let path = walk::below(root, &found.path);
                cache.put(&path, stamp, digest);
                files.entry(digest).or_insert(Source { path, stamp });
                Kind::File { size: stamp.size, digest }
            }
            (FoundKind::Symlink(target), _) => Kind::Symlink { target },
            (FoundKind::Dir | FoundKind::File(_), _) => Kind::Dir,
        };
        entries.push(Entry { path: found.path, mode: found.mode, kind });
    }
    cache.scanned(root);
    Ok(Scanned { manifest: Manifest { entries }, files, largest })
}

#[cfg(test)]
mod tests;

//! Hashing files on a few threads.

use std::io::{self, Read as _};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use convoke_model::Digest;
use sha2::{Digest as _, Sha256};

use super::cache::DigestCache;
use super::stamp::Stamp;
use super::walk::{Found, FoundKind, below};
use super::{Progress, ScanError, open};

/// Threads at most: beyond it the disk is what is waited for.
const THREADS: usize = 8;
/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// What was hashed, and how it looked then.
type Hashed = (Stamp, Digest);

/// The digest of every file of `found`, in its order; `None` for what is no file.
pub(super) fn all(
    root: &Path,
    found: &[Found],
    cache: &DigestCache,
    progress: &Progress,
) -> Result<Vec<Option<Hashed>>, ScanError> {
    let next = AtomicUsize::new(0);
    let first_error = Mutex::new(None);
    let work = || {
        let mut hashed = Vec::new();
        let mut buffer = vec![0; CHUNK];
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(entry) = found.get(index) else { return hashed };
            let FoundKind::File(stamp) = &entry.kind else { continue };
            match one(&below(root, &entry.path), stamp, cache, progress, &mut buffer) {
                Ok(result) => hashed.push((index, result)),
                Err(error) => {
                    next.store(found.len(), Ordering::Relaxed);
                    first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    return hashed;
                }
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).clamp(1, THREADS);
    let mut results = vec![None; found.len()];
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let hashed = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            for (index, result) in hashed {
                results[index] = Some(result);
            }
        }
    });
    match first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(results),
    }
}

fn one(
    path: &Path,
    stamp: &Stamp,
    cache: &DigestCache,
    progress: &Progress,
    buffer: &mut [u8],
) -> Result<Hashed, ScanError> {
    progress.check()?;
    if let Some(digest) = cache.get(path, stamp) {
        progress.bytes.fetch_add(stamp.size, Ordering::Relaxed);
        return Ok((*stamp, digest));
    }
    hash(path, progress, buffer, || {})
}

/// Reads a file to its end; `after_read` is called between that and the look whether it changed.
pub(super) fn hash(
    path: &Path,
    progress: &Progress,
    buffer: &mut [u8],
    mut after_read: impl FnMut(),
) -> Result<Hashed, ScanError> {
    for _ in 0..2 {
        match read(path, progress, buffer, &mut after_read) {
            Ok(Some(hashed)) => return Ok(hashed),
            Ok(None) => progress.check()?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => break,
            Err(source) => return Err(ScanError::Unreadable { path: path.to_owned(), source }),
        }
    }
    Err(ScanError::Changed { path: path.to_owned() })
}

/// `None` if it changed meanwhile, or the scan was cancelled.
fn read(
    path: &Path,
    progress: &Progress,
    buffer: &mut [u8],
    after_read: &mut impl FnMut(),
) -> io::Result<Option<Hashed>> {
    let mut file = open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let before = Stamp::of(&metadata);
    let mut hasher = Sha256::new();
    let mut size = 0;
    loop {
        let n = match file.read(buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hasher.update(&buffer[..n]);
        size += n as u64;
        progress.bytes.fetch_add(n as u64, Ordering::Relaxed);
        if progress.check().is_err() || size > before.size {
            break;
        }
    }
    after_read();
    let after = Stamp::of(&file.metadata()?);
    if before != after || size != before.size {
        // What was read of it does not count.
        progress.bytes.fetch_sub(size, Ordering::Relaxed);
        return Ok(None);
    }
    Ok(Some((before, Digest(hasher.finalize().into()))))
}

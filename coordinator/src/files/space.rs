//! The space that blobs may take: a full disk would stop the ledger, so they stop before it is full.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::BlobError;
use crate::BlobOptions;

pub(super) struct Space {
    root: PathBuf,
    reserve_bytes: u64,
    reserve_percent: u64,
    /// Sizes of the blobs that are being received. Counted whole until they are there, also what is
    /// written already: near the limit that refuses too much rather than too little.
    promised: AtomicU64,
}

/// Space for one blob, given back when dropped: by then it is written, or is not coming.
pub(super) struct Promise {
    space: Arc<Space>,
    bytes: u64,
}

impl Space {
    pub(super) fn new(root: &Path, options: &BlobOptions) -> Self {
        Self {
            root: root.to_owned(),
            reserve_bytes: options.reserve_bytes,
            reserve_percent: options.reserve_percent,
            promised: AtomicU64::new(0),
        }
    }

    /// Refuses what would leave less than the reserve.
    pub(super) fn promise(self: &Arc<Self>, bytes: u64) -> Result<Promise, BlobError> {
        let found = rustix::fs::statvfs(&self.root).map_err(io::Error::from)?;
        self.promise_of(bytes, found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)
    }

    fn promise_of(self: &Arc<Self>, bytes: u64, free: u64, total: u64) -> Result<Promise, BlobError> {
        let promised = self.promised.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let promise = Promise { space: self.clone(), bytes };
        let reserve = self.reserve_bytes.min(total / 100 * self.reserve_percent);
        if free < reserve.saturating_add(promised) { Err(BlobError::DiskFull) } else { Ok(promise) }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.space.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_smaller_reserve_stays_free_and_what_is_promised_counts_until_it_is_there() {
        let space = Arc::new(Space::new(Path::new("/"), &BlobOptions::default()));
        let refused = |bytes, free, total| space.promise_of(bytes, free, total).is_err();
        assert!(!refused(GIB, 2 * GIB, 1000 * GIB) && refused(GIB + 1, 2 * GIB, 1000 * GIB));
        assert!(!refused(900 * GIB / 1000, GIB, GIB) && refused(960 * GIB / 1000, GIB, GIB));
        let first = space.promise_of(GIB, 3 * GIB, 1000 * GIB).unwrap();
        assert!(refused(GIB + 1, 3 * GIB, 1000 * GIB) && !refused(GIB, 3 * GIB, 1000 * GIB));
        drop(first);
        assert!(!refused(2 * GIB, 3 * GIB, 1000 * GIB));
    }
}

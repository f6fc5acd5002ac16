//! Room on the agent's disk.

use std::io;
use std::path::Path;

use rustix::fs::statvfs;

/// Left free whatever is fetched: the agent's own ledger, the tasks' output and exits need some.
const RESERVE: u64 = 256 << 20;
/// A disk is low below a twentieth of it, or this much on large ones.
const LOW_AT_MOST: u64 = 10 << 30;

/// A file system's size and what an agent may still use of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) total: u64,
    pub(super) free: u64,
}

/// More is needed than there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} are needed and {} are free", bytes(*needed), bytes(*free))]
pub struct Shortage {
    pub needed: u64,
    pub free: u64,
}

impl Space {
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let space = statvfs(path)?;
        Ok(Self { total: space.f_blocks * space.f_frsize, free: space.f_bavail * space.f_frsize })
    }

    /// What is missing for `needed` more bytes; `None` if there is room.
    pub(super) fn shortage(self, needed: u64) -> Option<Shortage> {
        let needed = needed.saturating_add(RESERVE.min(self.total / 20));
        (needed > self.free).then_some(Shortage { needed, free: self.free })
    }

    /// What is missing until the disk is no longer low.
    pub(super) fn lack(self) -> u64 {
        (self.total / 20).min(LOW_AT_MOST).saturating_sub(self.free)
    }
}

/// True if a write failed because the disk, or the agent's share of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// For people.
pub(super) fn bytes(bytes: u64) -> impl std::fmt::Display {
    bytesize::ByteSize(bytes).display().iec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_stays_free_and_the_numbers_are_told() {
        let space = Space { total: 100 << 30, free: 1 << 30 };
        assert_eq!(space.shortage(512 << 20), None);
        let shortage = space.shortage(1 << 30).unwrap();
        assert_eq!(shortage.to_string(), "1.2 GiB are needed and 1.0 GiB are free");
    }

    #[test]
    fn a_small_disk_is_low_below_a_twentieth() {
        assert_eq!(Space { total: 100, free: 5 }.lack(), 0);
        assert_eq!(Space { total: 100, free: 2 }.lack(), 3);
        assert_eq!(Space { total: 1 << 40, free: 0 }.lack(), LOW_AT_MOST);
    }
}

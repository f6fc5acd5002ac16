//! What tells that a file is still the same without reading it.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

/// Equal stamps of one path mean equal content, but for writes within the clock's granularity. The
/// change time cannot be set back by programs that keep modification times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    #[serde(rename = "s")]
    pub(crate) size: u64,
    /// Nanoseconds since 1970.
    #[serde(rename = "m")]
    modified: i64,
    #[serde(rename = "c")]
    changed: i64,
    #[serde(rename = "i")]
    inode: u64,
    #[serde(rename = "d")]
    device: u64,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            size: metadata.len(),
            modified: nanos(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanos(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }

    /// When it was last touched in any way, in nanoseconds since 1970.
    pub(crate) fn touched(&self) -> i64 {
        self.modified.max(self.changed)
    }
}

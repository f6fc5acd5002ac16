//! Files that travel, by their content.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// A directory (or a single file) at one moment: the digest of its manifest, which lists every entry
/// with its own digest. Equal references mean equal content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TreeRef {
    /// SHA-256 of the manifest.
    pub digest: Digest,
    /// Regular files in it.
    pub files: u64,
    /// Sum of their sizes.
    pub bytes: u64,
}

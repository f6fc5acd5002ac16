//! The space left where the engine keeps images.

use std::path::PathBuf;

use super::{ImageError, ImagesConfig};

/// What was free before a fetch began.
pub(super) struct Space {
    path: PathBuf,
    /// Bytes; `None` where the directory cannot be asked (an engine in a virtual machine of its own,
    /// say): nothing is refused for that.
    free: Option<u64>,
    keep_free: u64,
}

impl Space {
    pub(super) fn look(config: &ImagesConfig) -> Self {
        let stat = rustix::fs::statvfs(&config.data_root).ok();
        // The engine writes as root: what is reserved for root counts.
        let free = stat.map(|stat| stat.f_bfree.saturating_mul(stat.f_frsize));
        Self { path: config.data_root.clone(), free, keep_free: config.policy.keep_free }
    }

    /// Less is free than always should be.
    pub(super) fn is_short(&self) -> bool {
        self.free.is_some_and(|free| free < self.keep_free)
    }

    /// Refuses a fetch that takes `bytes` if that would leave too little.
    pub(super) fn fits(&self, bytes: u64, what: &str) -> Result<(), ImageError> {
        let needed = self.keep_free.saturating_add(bytes);
        match self.free {
            Some(free) if free < needed => {
                Err(ImageError::NoSpace { what: what.to_owned(), path: self.path.clone(), free, needed })
            }
            _ => Ok(()),
        }
    }
}

//! Which trees somebody is using right now.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use convoke_model::Digest;

/// Counts holders by tree. What replicas on disk use is beside it: see [`super::evict`].
#[derive(Debug, Clone, Default)]
pub(super) struct Holds(Arc<Mutex<BTreeMap<Digest, usize>>>);

/// Keeps a tree from being evicted.
#[derive(Debug)]
pub(super) struct Hold {
    holds: Holds,
    digest: Digest,
}

impl Holds {
    pub(super) fn take(&self, digest: Digest) -> Hold {
        self.edit(|holds| *holds.entry(digest).or_default() += 1);
        Hold { holds: self.clone(), digest }
    }

    pub(super) fn held(&self) -> Vec<Digest> {
        self.edit(|holds| holds.keys().copied().collect())
    }

    fn edit<T>(&self, edit: impl FnOnce(&mut BTreeMap<Digest, usize>) -> T) -> T {
        edit(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Hold {
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.edit(|holds| {
            if let Some(count) = holds.get_mut(&self.digest) {
                *count -= 1;
                if *count == 0 {
                    holds.remove(&self.digest);
                }
            }
        });
    }
}

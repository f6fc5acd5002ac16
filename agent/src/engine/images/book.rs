//! Which images were fetched here, by which references, and when they were last used.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use convoke_model::Timestamp;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::ledger;

/// Which images are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Images that no job used for so long are removed.
    pub unused_for: Duration,
    /// With fewer bytes left, no image is fetched, and unused ones are removed at once.
    pub keep_free: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    /// What the engine was asked for and the tags that were made: what may be removed again.
    pub(super) references: Vec<String>,
    pub(super) used: Timestamp,
}

type Entries = BTreeMap<String, Entry>;

/// By id. A change is on disk before the call returns; what cannot be written is told, and then at
/// worst an image is kept too long.
pub(super) struct Book {
    path: PathBuf,
    entries: Mutex<Entries>,
}

impl Book {
    /// One that cannot be read is begun anew: its images are then nobody's to remove.
    pub(super) fn open(path: PathBuf) -> Self {
        let entries = ledger::read(&path).unwrap_or_else(|error| {
            warn!("which images were fetched is forgotten: {error}");
            None
        });
        Self { path, entries: Mutex::new(entries.unwrap_or_default()) }
    }

    pub(super) fn fetched(&self, id: &str, references: Vec<String>, now: Timestamp) {
        let mut entries = self.lock();
        let entry = entries.entry(id.to_owned()).or_insert(Entry { references: Vec::new(), used: now });
        entry.used = now;
        for reference in references {
            if !entry.references.contains(&reference) {
                entry.references.push(reference);
            }
        }
        self.write(&entries);
    }

    /// Does nothing for an image that was there before.
    pub(super) fn used(&self, id: &str, now: Timestamp) {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(id) {
            entry.used = now;
            self.write(&entries);
        }
    }

    pub(super) fn forget(&self, id: &str) {
        let mut entries = self.lock();
        if entries.remove(id).is_some() {
            self.write(&entries);
        }
    }

    pub(super) fn entries(&self) -> Entries {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, entries: &Entries) {
        if let Err(error) = ledger::write(&self.path, entries) {
            warn!("which images were fetched is not written down: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_book_remembers_and_a_broken_one_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("images.json");
        let book = Book::open(path.clone());
        book.fetched("sha256:1", vec!["a:1".to_owned()], Timestamp(5));
        book.fetched("sha256:1", vec!["a:1".to_owned(), "a:2".to_owned()], Timestamp(6));
        book.used("sha256:1", Timestamp(9));
        book.used("sha256:theirs", Timestamp(9));

        let entries = Book::open(path.clone()).entries();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries["sha256:1"].references, ["a:1", "a:2"]);
        assert_eq!(entries["sha256:1"].used, Timestamp(9));

        std::fs::write(&path, "{").unwrap();
        assert!(Book::open(path).entries().is_empty());
    }
}

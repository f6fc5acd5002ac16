//! What a replica still owes its submitter, as marks in its directory: durable, so that no agent forgets it.
//!
//! The mark of files is set before the tasks start and goes once all that they wrote is home; that of checkpoints is
//! set when an ended task's cannot be stored. While there is one, the replica's directory is not deleted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use convoke_model::{Rank, Timestamp};
use serde::{Deserialize, Serialize};

use crate::clock::now;
use crate::ledger::{self, LedgerError};

/// How the marks' names end.
const MARK: &str = "-owed.json";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owed {
    Files,
    /// Of the task of that first rank.
    Checkpoint(Rank),
}

#[derive(Debug, Serialize, Deserialize)]
struct Mark {
    /// Since when it is kept without its replica.
    since: Option<Timestamp>,
}

impl Owed {
    fn file(self, replica: &Path) -> PathBuf {
        replica.join(match self {
            Self::Files => format!("files{MARK}"),
            Self::Checkpoint(rank) => format!("checkpoint-{rank}{MARK}"),
        })
    }

    pub(crate) fn is_marked(self, replica: &Path) -> bool {
        self.file(replica).exists()
    }

    /// Blocking.
    pub(crate) fn mark(self, replica: &Path) -> Result<(), LedgerError> {
        if self.is_marked(replica) {
            return Ok(());
        }
        ledger::write(&self.file(replica), &Mark { since: None })
    }

    /// Blocking; no mark is fine.
    pub(crate) fn clear(self, replica: &Path) -> io::Result<()> {
        match fs::remove_file(self.file(replica)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// True if something of the replica is owed. Blocking.
pub(crate) fn any(replica: &Path) -> bool {
    marks(replica).next().is_some()
}

fn marks(replica: &Path) -> impl Iterator<Item = PathBuf> {
    let paths = fs::read_dir(replica).into_iter().flatten().flatten().map(|entry| entry.path());
    paths.filter(|path| path.to_string_lossy().ends_with(MARK))
}

/// The replica goes: notes since when, once. Blocking.
pub(super) fn begin(replica: &Path) -> Result<(), LedgerError> {
    marks(replica).try_for_each(|file| match ledger::read::<Mark>(&file) {
        Ok(Some(Mark { since: Some(_) })) => Ok(()),
        _ => ledger::write(&file, &Mark { since: Some(now()) }),
    })
}

/// Since when it is kept; a mark that cannot be read says now, so that nothing is deleted too early. Blocking.
pub(super) fn since(replica: &Path) -> Timestamp {
    let marks = marks(replica).filter_map(|file| ledger::read::<Mark>(&file).ok().flatten());
    marks.filter_map(|mark| mark.since).min().unwrap_or_else(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_is_dated_once_and_ends_with_the_last_mark() {
        let directory = tempfile::tempdir().unwrap();
        let replica = directory.path();
        assert!(!any(replica));
        Owed::Files.mark(replica).unwrap();
        Owed::Checkpoint(Rank(3)).mark(replica).unwrap();
        begin(replica).unwrap();
        let since = since(replica);
        Owed::Files.mark(replica).unwrap();
        begin(replica).unwrap();
        assert_eq!(super::since(replica), since, "neither a mark nor another start renews it");
        Owed::Files.clear(replica).unwrap();
        assert!(any(replica));
        Owed::Checkpoint(Rank(3)).clear(replica).unwrap();
        Owed::Checkpoint(Rank(3)).clear(replica).unwrap();
        assert!(!any(replica));
    }
}

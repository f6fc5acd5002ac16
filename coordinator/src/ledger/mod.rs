//! The ledger: what was decided, durably, in one redb file.
//!
//! Tables: `changes` (position → JSON, what follows the snapshot), `snapshot` (position → JSON of
//! the state after that change), `events` (sequence → JSON, the bounded history), `meta` (format).
//! A commit is one transaction with one fsync. After a failed write redb must be opened again:
//! [`Ledger::reopen`] does that, and tells whether the failed commit had reached the disk after all.

mod history;
mod tables;

pub(crate) use crate::database::DatabaseError as LedgerError;
pub(crate) use history::History;

use std::path::Path;
use std::sync::Arc;

use convoke_model::EventRecord;

use crate::database::DatabaseFile;
use tables::{CHANGES, EVENTS, LEDGER, SNAPSHOT, changes_after, newest_snapshot, next_event};

/// What a start replays: the state after the newest snapshot, then the changes since.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(crate) snapshot: Option<Vec<u8>>,
    pub(crate) changes: Vec<Vec<u8>>,
}

impl Replay {
    /// True for a ledger under which no coordinator has started yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.snapshot.is_none() && self.changes.is_empty()
    }
}

/// The one writer of the ledger.
pub(crate) struct Ledger {
    file: Arc<DatabaseFile>,
    /// Position of the next change; the first is 1.
    next_change: u64,
    next_event: u64,
    since_snapshot: u64,
    keep_events: u64,
    failed: bool,
}

impl Ledger {
    /// Opens or makes the ledger, and reads what is to be replayed.
    pub(crate) fn open(path: &Path, keep_events: u64) -> Result<(Self, Replay), LedgerError> {
        Self::open_file(DatabaseFile::at(path, &LEDGER)?, keep_events)
    }

    fn open_file(file: DatabaseFile, keep_events: u64) -> Result<(Self, Replay), LedgerError> {
        let (position, snapshot) = match newest_snapshot(&file)? {
            Some((position, bytes)) => (position, Some(bytes)),
            None => (0, None),
        };
        let changes = changes_after(&file, position)?;
        let ledger = Self {
            next_change: position + changes.len() as u64 + 1,
            next_event: next_event(&file)?,
            since_snapshot: changes.len() as u64,
            keep_events: keep_events.max(1),
            failed: false,
            file: Arc::new(file),
        };
        Ok((ledger, Replay { snapshot, changes }))
    }

    /// Makes one change and its events durable. On an error nothing may be applied; call
    /// [`Self::reopen`] before the next commit.
    pub(crate) fn commit(&mut self, change: &[u8], events: &[EventRecord]) -> Result<(), LedgerError> {
        let first_event = self.next_event;
        let keep = self.keep_events;
        let position = self.next_change;
        let written = self.file.write(|tx| {
            tx.open_table(CHANGES)?.insert(position, change)?;
            let mut table = tx.open_table(EVENTS)?;
            let mut next = first_event;
            for event in events {
                let json = serde_json::to_vec(event).expect("an event record is plain data");
                table.insert(next, json.as_slice())?;
                next += 1;
            }
            table.retain_in(..next.saturating_sub(keep), |_, _| false)?;
            Ok(next)
        });
        self.next_event = written.inspect_err(|_| self.failed = true)?;
        self.next_change += 1;
        self.since_snapshot += 1;
        Ok(())
    }

    /// Number of changes that a start would replay.
    pub(crate) fn since_snapshot(&self) -> u64 {
        self.since_snapshot
    }

    /// Replaces all changes so far by the state after them.
    pub(crate) fn snapshot(&mut self, state: &[u8]) -> Result<(), LedgerError> {
        let position = self.next_change - 1;
        let written = self.file.write(|tx| {
            let mut snapshots = tx.open_table(SNAPSHOT)?;
            snapshots.retain(|_, _| false)?;
            snapshots.insert(position, state)?;
            tx.open_table(CHANGES)?.retain_in(..=position, |_, _| false)?;
            Ok(())
        });
        written.inspect_err(|_| self.failed = true)?;
        self.since_snapshot = 0;
        Ok(())
    }

    /// True after a failed write: nothing can be committed before [`Self::reopen`].
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// Opens the file again after a failed write. Returns the changes that are on disk although
    /// their commit reported an error; they must be applied before anything is decided.
    pub(crate) fn reopen(&mut self) -> Result<Vec<Vec<u8>>, LedgerError> {
        self.file.reopen()?;
        let landed = changes_after(&self.file, self.next_change - 1)?;
        self.next_change += landed.len() as u64;
        self.since_snapshot += landed.len() as u64;
        self.next_event = next_event(&self.file)?;
        self.failed = false;
        Ok(landed)
    }

    /// A handle that reads the history.
    pub(crate) fn history(&self) -> History {
        History::new(self.file.clone())
    }

    /// The newest event; its time is the latest that the ledger knows.
    pub(crate) fn newest_event(&self) -> Result<Option<EventRecord>, LedgerError> {
        let newest = self.history().read(self.next_event.saturating_sub(1), 1)?;
        Ok(newest.into_iter().next().map(|(_, event)| event))
    }

    /// Sequence of the next event.
    pub(crate) fn next_event(&self) -> u64 {
        self.next_event
    }
}

/// Opens a ledger on a disk that is full while `full` says so.
#[cfg(test)]
pub(crate) fn open_on(path: &Path, full: Arc<std::sync::atomic::AtomicBool>) -> (Ledger, Replay) {
    let file = crate::database::full_disk::open_on(path, &LEDGER, full);
    Ledger::open_file(file, 10).unwrap()
}

#[cfg(test)]
mod tests;

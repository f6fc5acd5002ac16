//! Reading the cluster's history, beside the writer.

use std::sync::Arc;

use convoke_model::EventRecord;
use redb::ReadableDatabase as _;

use super::LedgerError;
use super::tables::EVENTS;
use crate::database::DatabaseFile;

/// Reads events; cheap to clone. Blocks on the disk: call it from a blocking thread.
#[derive(Clone)]
pub(crate) struct History {
    file: Arc<DatabaseFile>,
}

impl History {
    pub(super) fn new(file: Arc<DatabaseFile>) -> Self {
        Self { file }
    }

    /// At most `limit` events from `sequence` on, oldest first.
    pub(crate) fn read(&self, sequence: u64, limit: usize) -> Result<Vec<(u64, EventRecord)>, LedgerError> {
        let rows = self.file.with(|database| {
            let table = database.begin_read()?.open_table(EVENTS)?;
            let mut rows = Vec::new();
            for row in table.range(sequence..)?.take(limit) {
                let (key, json) = row?;
                rows.push((key.value(), serde_json::from_slice(json.value())));
            }
            Ok(rows)
        })?;
        let damaged = |sequence, error| self.file.damaged(format!("event {sequence}: {error}"));
        rows.into_iter()
            .map(|(sequence, event)| match event {
                Ok(event) => Ok((sequence, event)),
                Err::<_, serde_json::Error>(error) => Err(damaged(sequence, error)),
            })
            .collect()
    }
}

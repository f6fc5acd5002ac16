//! The ledger's tables, and what is read from them.

use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::LedgerError;
use crate::database::{DatabaseFile, Schema};

pub(super) const CHANGES: TableDefinition<u64, &[u8]> = TableDefinition::new("changes");
pub(super) const SNAPSHOT: TableDefinition<u64, &[u8]> = TableDefinition::new("snapshot");
pub(super) const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");

pub(super) static LEDGER: Schema = Schema {
    what: "ledger",
    otherwise: "start an empty cluster with another --data-dir",
    format: 1,
    create: |tx| {
        for table in [CHANGES, SNAPSHOT, EVENTS] {
            tx.open_table(table)?;
        }
        Ok(())
    },
};

/// The newest snapshot, and the position of the change that it follows.
pub(super) fn newest_snapshot(file: &DatabaseFile) -> Result<Option<(u64, Vec<u8>)>, LedgerError> {
    file.with(|database| {
        let table = database.begin_read()?.open_table(SNAPSHOT)?;
        Ok(table.last()?.map(|(position, json)| (position.value(), json.value().to_vec())))
    })
}

/// Changes after `position`, without a hole.
pub(super) fn changes_after(file: &DatabaseFile, position: u64) -> Result<Vec<Vec<u8>>, LedgerError> {
    let rows = file.with(|database| {
        let table = database.begin_read()?.open_table(CHANGES)?;
        let mut rows = Vec::new();
        for row in table.range(position + 1..)? {
            let (key, json) = row?;
            rows.push((key.value(), json.value().to_vec()));
        }
        Ok(rows)
    })?;
    let hole = rows.iter().zip(position + 1..).find(|((found, _), expected)| found != expected);
    if let Some((_, missing)) = hole {
        return Err(file.damaged(format!("change {missing} is missing")));
    }
    Ok(rows.into_iter().map(|(_, json)| json).collect())
}

/// One more than the newest event; the first is 1.
pub(super) fn next_event(file: &DatabaseFile) -> Result<u64, LedgerError> {
    file.with(|database| {
        let table = database.begin_read()?.open_table(EVENTS)?;
        Ok(table.last()?.map_or(1, |(sequence, _)| sequence.value() + 1))
    })
}

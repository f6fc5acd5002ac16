//! The redb file: tables, format check, and the handle that can be opened again.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::LedgerError;

/// Written into every new ledger; a higher one is refused.
pub(super) const FORMAT: u64 = 1;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
pub(super) const CHANGES: TableDefinition<u64, &[u8]> = TableDefinition::new("changes");
pub(super) const SNAPSHOT: TableDefinition<u64, &[u8]> = TableDefinition::new("snapshot");
pub(super) const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");

type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

pub(super) struct LedgerFile {
    path: PathBuf,
    opener: Opener,
    /// `None` between a failed write and a successful reopening.
    database: RwLock<Option<Database>>,
}

impl LedgerFile {
    pub(super) fn at(path: &Path) -> Result<Self, LedgerError> {
        let own = path.to_owned();
        Self::with_opener(path, Box::new(move || Database::create(&own)))
    }

    pub(super) fn with_opener(path: &Path, opener: Opener) -> Result<Self, LedgerError> {
        let file = Self { path: path.to_owned(), opener, database: RwLock::new(None) };
        file.reopen()?;
        Ok(file)
    }

    /// Closes the database and opens it again, which also repairs it.
    pub(super) fn reopen(&self) -> Result<(), LedgerError> {
        let mut slot = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *slot = None;
        let database = (self.opener)().map_err(|e| self.error(e))?;
        self.check_format(&database)?;
        *slot = Some(database);
        Ok(())
    }

    fn check_format(&self, database: &Database) -> Result<(), LedgerError> {
        let found = || -> Result<Option<u64>, redb::Error> {
            let tx = database.begin_read()?;
            match tx.open_table(META) {
                Ok(meta) => Ok(meta.get("format")?.map(|format| format.value())),
                Err(redb::TableError::TableDoesNotExist(_)) if tx.list_tables()?.next().is_none() => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        match found() {
            Ok(Some(FORMAT)) => Ok(()),
            Ok(Some(found)) => Err(LedgerError::Newer { path: self.path.clone(), found, known: FORMAT }),
            Ok(None) => self.initialise(database),
            Err(error @ redb::Error::TableDoesNotExist(_)) => {
                Err(LedgerError::Damaged { path: self.path.clone(), problem: error.to_string() })
            }
            Err(error) => Err(self.error(error)),
        }
    }

    fn initialise(&self, database: &Database) -> Result<(), LedgerError> {
        let written = || -> Result<(), redb::Error> {
            let tx = database.begin_write()?;
            tx.open_table(META)?.insert("format", FORMAT)?;
            for table in [CHANGES, SNAPSHOT, EVENTS] {
                tx.open_table(table)?;
            }
            tx.commit()?;
            Ok(())
        };
        written().map_err(|e| self.error(e))
    }

    /// Runs one write transaction; its result counts only when the commit did.
    pub(super) fn write<T>(
        &self,
        body: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, LedgerError> {
        self.with(|database| {
            let tx = database.begin_write()?;
            let value = body(&tx)?;
            tx.commit()?;
            Ok(value)
        })
    }

    /// Runs `body` on the open database.
    pub(super) fn with<T>(
        &self,
        body: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, LedgerError> {
        let slot = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = slot.as_ref() else {
            let problem = "an earlier write failed and it is not open again yet".to_owned();
            return Err(LedgerError::Io { path: self.path.clone(), problem });
        };
        body(database).map_err(|e| self.error(e))
    }

    pub(super) fn newest_snapshot(&self) -> Result<Option<(u64, Vec<u8>)>, LedgerError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(SNAPSHOT)?;
            Ok(table.last()?.map(|(position, json)| (position.value(), json.value().to_vec())))
        })
    }

    /// Changes after `position`, without a hole.
    pub(super) fn changes_after(&self, position: u64) -> Result<Vec<Vec<u8>>, LedgerError> {
        let rows = self.with(|database| {
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
            let problem = format!("change {missing} is missing");
            return Err(LedgerError::Damaged { path: self.path.clone(), problem });
        }
        Ok(rows.into_iter().map(|(_, json)| json).collect())
    }

    /// One more than the newest event; the first is 1.
    pub(super) fn next_event(&self) -> Result<u64, LedgerError> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(EVENTS)?;
            Ok(table.last()?.map_or(1, |(sequence, _)| sequence.value() + 1))
        })
    }

    pub(super) fn error(&self, error: impl Into<redb::Error>) -> LedgerError {
        LedgerError::from_redb(&self.path, error.into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

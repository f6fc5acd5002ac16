//! One redb file: what it is, the check of its format, and a handle that can be opened again after a
//! failed write, which redb asks for.

mod error;
#[cfg(test)]
pub(crate) mod full_disk;

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{Database, DatabaseError as OpenError, ReadableDatabase as _, TableDefinition, WriteTransaction};

pub(crate) use error::DatabaseError;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// What a file is.
pub(crate) struct Schema {
    /// For people.
    pub(crate) what: &'static str,
    /// What to do about a damaged one of which there is no backup.
    pub(crate) otherwise: &'static str,
    /// Written into every new file; a higher one is refused.
    pub(crate) format: u64,
    /// Makes the tables of a new file.
    pub(crate) create: fn(&WriteTransaction) -> Result<(), redb::Error>,
}

type Opener = Box<dyn Fn() -> Result<Database, OpenError> + Send + Sync>;

pub(crate) struct DatabaseFile {
    schema: &'static Schema,
    path: PathBuf,
    opener: Opener,
    /// `None` between a failed write and a successful reopening.
    database: RwLock<Option<Database>>,
}

impl DatabaseFile {
    pub(crate) fn at(path: &Path, schema: &'static Schema) -> Result<Self, DatabaseError> {
        let own = path.to_owned();
        Self::with_opener(path, schema, Box::new(move || Database::create(&own)))
    }

    pub(crate) fn with_opener(
        path: &Path,
        schema: &'static Schema,
        opener: Opener,
    ) -> Result<Self, DatabaseError> {
        let file = Self { schema, path: path.to_owned(), opener, database: RwLock::new(None) };
        file.reopen()?;
        Ok(file)
    }

    /// Closes the database and opens it again, which also repairs it.
    pub(crate) fn reopen(&self) -> Result<(), DatabaseError> {
        let mut slot = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *slot = None;
        let database = (self.opener)().map_err(|e| self.error(e))?;
        self.check_format(&database)?;
        *slot = Some(database);
        Ok(())
    }

    fn check_format(&self, database: &Database) -> Result<(), DatabaseError> {
        let found = || -> Result<Option<u64>, redb::Error> {
            let tx = database.begin_read()?;
            match tx.open_table(META) {
                Ok(meta) => Ok(meta.get("format")?.map(|format| format.value())),
                Err(redb::TableError::TableDoesNotExist(_)) if tx.list_tables()?.next().is_none() => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        let Schema { what, format, .. } = *self.schema;
        match found() {
            Ok(Some(found)) if found == format => Ok(()),
            Ok(Some(found)) => {
                Err(DatabaseError::Newer { what, path: self.path.clone(), found, known: format })
            }
            Ok(None) => self.initialise(database),
            Err(error @ redb::Error::TableDoesNotExist(_)) => Err(self.damaged(error.to_string())),
            Err(error) => Err(self.error(error)),
        }
    }

    fn initialise(&self, database: &Database) -> Result<(), DatabaseError> {
        let written = || -> Result<(), redb::Error> {
            let tx = database.begin_write()?;
            tx.open_table(META)?.insert("format", self.schema.format)?;
            (self.schema.create)(&tx)?;
            tx.commit()?;
            Ok(())
        };
        written().map_err(|e| self.error(e))
    }

    /// Runs one write transaction; its result counts only when the commit did.
    pub(crate) fn write<T>(
        &self,
        body: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, DatabaseError> {
        self.with(|database| {
            let tx = database.begin_write()?;
            let value = body(&tx)?;
            tx.commit()?;
            Ok(value)
        })
    }

    /// Runs `body` on the open database.
    pub(crate) fn with<T>(
        &self,
        body: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, DatabaseError> {
        let slot = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = slot.as_ref() else {
            let problem = "an earlier write failed and it is not open again yet".to_owned();
            return Err(DatabaseError::Io { what: self.schema.what, path: self.path.clone(), problem });
        };
        body(database).map_err(|e| self.error(e))
    }

    pub(crate) fn error(&self, error: impl Into<redb::Error>) -> DatabaseError {
        DatabaseError::from_redb(self.schema, &self.path, error.into())
    }

    /// A file whose content breaks its form.
    pub(crate) fn damaged(&self, problem: String) -> DatabaseError {
        let Schema { what, otherwise, .. } = *self.schema;
        DatabaseError::Damaged { what, path: self.path.clone(), problem, otherwise }
    }
}

//! Why a database cannot be read or written.

use std::path::PathBuf;

use super::Schema;
use crate::data_dir::is_disk_full;

#[derive(Debug, thiserror::Error)]
pub(crate) enum DatabaseError {
    #[error("the {what} {path} cannot be written: the disk is full; free space on it")]
    DiskFull { what: &'static str, path: PathBuf },
    #[error(
        "the {what} {path} is not a {what} of Convoke, or is damaged ({problem}); restore it from a backup, or {otherwise}"
    )]
    Damaged { what: &'static str, path: PathBuf, problem: String, otherwise: &'static str },
    #[error(
        "the {what} {path} was written by a newer Convoke (format {found}; this one reads up to {known}); start that version instead"
    )]
    Newer { what: &'static str, path: PathBuf, found: u64, known: u64 },
    #[error("the {what} {path} is open in another process; stop that one first")]
    InUse { what: &'static str, path: PathBuf },
    #[error("the {what} {path} cannot be read or written: {problem}")]
    Io { what: &'static str, path: PathBuf, problem: String },
}

impl DatabaseError {
    pub(super) fn from_redb(schema: &Schema, path: &std::path::Path, error: redb::Error) -> Self {
        let (path, &Schema { what, otherwise, .. }) = (path.to_owned(), schema);
        match error {
            redb::Error::Io(io) if is_disk_full(&io) => Self::DiskFull { what, path },
            // redb says InvalidData for a file that does not begin as its own do.
            redb::Error::Io(io)
                if matches!(
                    io.kind(),
                    std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
                ) =>
            {
                Self::Damaged { what, path, problem: io.to_string(), otherwise }
            }
            redb::Error::Io(io) => Self::Io { what, path, problem: io.to_string() },
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
                Self::InUse { what, path }
            }
            redb::Error::Corrupted(_)
            | redb::Error::UpgradeRequired(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::RepairAborted => {
                Self::Damaged { what, path, problem: error.to_string(), otherwise }
            }
            other => Self::Io { what, path, problem: other.to_string() },
        }
    }
}

//! Why the ledger cannot be read or written.

use std::path::PathBuf;

use crate::data_dir::is_disk_full;

#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    #[error("the ledger {path} cannot be written: the disk is full; free space on it")]
    DiskFull { path: PathBuf },
    #[error(
        "the ledger {path} is not a ledger of Convoke, or is damaged ({problem}); restore it from a backup, or start an empty cluster with another --data-dir"
    )]
    Damaged { path: PathBuf, problem: String },
    #[error(
        "the ledger {path} is missing or empty, but {found} was stored under one; restore the ledger from a backup, or start an empty cluster with another --data-dir"
    )]
    Gone { path: PathBuf, found: PathBuf },
    #[error(
        "the ledger {path} was written by a newer Convoke (format {found}; this one reads up to {known}); start that version instead"
    )]
    Newer { path: PathBuf, found: u64, known: u64 },
    #[error("the ledger {path} is open in another process; stop that one first")]
    InUse { path: PathBuf },
    #[error("the ledger {path} cannot be read or written: {problem}")]
    Io { path: PathBuf, problem: String },
}

impl LedgerError {
    pub(super) fn from_redb(path: &std::path::Path, error: redb::Error) -> Self {
        let path = path.to_owned();
        match error {
            redb::Error::Io(io) if is_disk_full(&io) => Self::DiskFull { path },
            // redb says InvalidData for a file that does not begin as its own do.
            redb::Error::Io(io)
                if matches!(
                    io.kind(),
                    std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof
                ) =>
            {
                Self::Damaged { path, problem: io.to_string() }
            }
            redb::Error::Io(io) => Self::Io { path, problem: io.to_string() },
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::InUse { path },
            redb::Error::Corrupted(_)
            | redb::Error::UpgradeRequired(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::RepairAborted => Self::Damaged { path, problem: error.to_string() },
            other => Self::Io { path, problem: other.to_string() },
        }
    }
}

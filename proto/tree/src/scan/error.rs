//! Why a directory cannot travel, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::{IGNORE_FILE, Part};
use crate::MAX_ENTRIES;

#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is a link to {target}, which leads out of {}", path.display(), root.display())]
    LinkOut { path: PathBuf, target: String, root: PathBuf },
    #[error("the name {path:?} is not UTF-8")]
    NotUtf8 { path: PathBuf },
    #[error("{} is {what}, which cannot travel", path.display())]
    Special { path: PathBuf, what: &'static str },
    #[error("{} changed while it was read, twice", path.display())]
    Changed { path: PathBuf },
    #[error("{} holds {bytes} bytes, more than the {limit} that may travel", root.display())]
    TooLarge { root: PathBuf, bytes: u64, limit: u64, largest: Vec<Part> },
    #[error("{} holds more than {MAX_ENTRIES} files and directories", root.display())]
    TooMany { root: PathBuf },
    #[error("{}: {problem}", path.display())]
    BadIgnore { path: PathBuf, problem: String },
    #[error("the scan was cancelled")]
    Cancelled,
}

impl ScanError {
    /// What the owner of the files can do.
    pub fn advice(&self) -> String {
        let leave_out = format!("leave it out with a line in {IGNORE_FILE}");
        match self {
            Self::Unreadable { .. } => format!("make it readable, or {leave_out}"),
            Self::LinkOut { .. } => format!(
                "copy what it points to in its place, mount its target by absolute path where the nodes \
                 have it, or {leave_out}"
            ),
            Self::NotUtf8 { .. } => format!("rename it, or {leave_out}"),
            Self::Special { .. } => format!("remove it, or {leave_out}"),
            Self::Changed { .. } => format!("wait until nothing writes to it, or {leave_out}"),
            Self::TooLarge { .. } => format!(
                "leave out what the job does not need with lines in {IGNORE_FILE}; or mount data that the \
                 nodes have, such as a shared file system, by its absolute path (`:ro` where it is only read)"
            ),
            Self::TooMany { .. } => format!(
                "pack small files into archives, mount a shared file system by its absolute path, or leave \
                 out what the job does not need with lines in {IGNORE_FILE}"
            ),
            Self::BadIgnore { .. } => "its lines are written as in a .gitignore".to_owned(),
            Self::Cancelled => "start it again".to_owned(),
        }
    }
}

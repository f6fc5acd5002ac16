//! What is laid out for a replica: kept beside its record, so that the next agent knows what the cache
//! must keep, what to take down, and what to look through for files that come back.

use std::path::{Path, PathBuf};

use convoke_model::Digest;
use serde::{Deserialize, Serialize};

use super::cache::SINGLE;
use crate::beneath::Beneath;

/// `files.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Laid {
    /// Trees of the cache that its mounts show.
    pub(super) trees: Vec<Digest>,
    pub(super) copies: Vec<OwnCopy>,
}

/// A private writable copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OwnCopy {
    /// The mount's source, as the job has it.
    pub(super) source: String,
    /// What it was at the start.
    pub(super) tree: Digest,
    pub(super) single_file: bool,
    pub(super) means: Means,
    /// `mounts/<n>/` of its replica.
    pub(super) place: usize,
}

/// How a private copy is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Means {
    /// Only what is changed is there twice.
    Overlay,
    /// Every file is copied, sharing blocks where the file system can.
    Copy,
}

impl Laid {
    pub(super) fn file(replica: &Path) -> PathBuf {
        replica.join("files.json")
    }

    /// Directory of everything that is mounted from the replica's own directory.
    pub(super) fn mounts(replica: &Path) -> PathBuf {
        replica.join("mounts")
    }
}

impl OwnCopy {
    pub(super) fn place(&self, replica: &Path) -> PathBuf {
        Laid::mounts(replica).join(self.place.to_string())
    }

    /// What the tasks see.
    pub(super) fn root(&self, replica: &Path) -> PathBuf {
        self.place(replica).join(match self.means {
            Means::Overlay => "merged",
            Means::Copy => "copy",
        })
    }

    /// Where what they change is found.
    pub(super) fn changes(&self, replica: &Path) -> Beneath {
        Beneath::new(self.place(replica).join(match self.means {
            Means::Overlay => "upper",
            Means::Copy => "copy",
        }))
    }

    /// A file of it by its path in the mount, which is empty where the mount is the file.
    pub(super) fn changed(&self, replica: &Path, path: &str) -> Beneath {
        self.changes(replica).join(if self.single_file { SINGLE } else { path })
    }
}

#[cfg(test)]
impl OwnCopy {
    /// A copy in `replica`, and where its files are.
    pub(super) fn made_in(replica: &Path, single_file: bool) -> (Self, PathBuf) {
        let (source, tree) = ("./d".to_owned(), Digest([0; 32]));
        let copy = Self { source, tree, single_file, means: Means::Copy, place: 0 };
        let root = copy.root(replica);
        std::fs::create_dir_all(&root).expect("a test can write");
        (copy, root)
    }
}

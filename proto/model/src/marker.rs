//! Proof that several hosts see the same directory.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name of the marker that stays in a directory which is mounted because it is shared.
pub const MARKER_FILE: &str = ".convoke-shared";

/// The longest path that a file system takes, Linux's `PATH_MAX`.
const MAX_PATH: usize = 4096;

/// Letters and digits of an id, or of the end of a marker's name.
const MAX_ID: usize = 64;

/// A file by whose content those are known who see the same directory, at the same path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Absolute, without `.` and `..`.
    pub directory: String,
    /// [`MARKER_FILE`], or that and `-` and some letters and digits for one that does not stay.
    pub file: String,
    /// All that the file holds: letters and digits.
    pub id: String,
}

impl Marker {
    pub fn path(&self) -> PathBuf {
        Path::new(&self.directory).join(&self.file)
    }

    /// Checks the fields; the error says what is wrong. It names one file of ours in a directory, and cannot
    /// name any other.
    pub fn validate(&self) -> Result<(), &'static str> {
        let directory = Path::new(&self.directory);
        let normal = directory.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        if !directory.is_absolute() || !normal || self.directory.len() > MAX_PATH {
            return Err("its directory is not an absolute path without . and ..");
        }
        if self.directory.contains('\0') {
            return Err("its directory contains a NUL character");
        }
        let end = self.file.strip_prefix(MARKER_FILE);
        if !end.is_some_and(|end| end.is_empty() || end.strip_prefix('-').is_some_and(is_marker_id)) {
            return Err("its file is not named as markers are");
        }
        if is_marker_id(&self.id) { Ok(()) } else { Err("its id is not of 1 to 64 letters and digits") }
    }
}

/// True for what a marker may hold.
pub fn is_marker_id(text: &str) -> bool {
    (1..=MAX_ID).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// True for the name of a marker: such files are no part of a directory's content.
pub fn is_marker_file(name: &str) -> bool {
    name.strip_prefix(MARKER_FILE).is_some_and(|end| end.is_empty() || end.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(directory: &str, file: &str, id: &str) -> bool {
        let [directory, file, id] = [directory, file, id].map(ToOwned::to_owned);
        Marker { directory, file, id }.validate().is_ok()
    }

    #[test]
    fn a_marker_names_a_file_of_ours_in_an_absolute_directory() {
        assert!(valid("/mnt/data", ".convoke-shared", "a1"));
        assert!(valid("/", ".convoke-shared-a1", "a1"));
        for directory in ["", "data", "./data", "/mnt/../etc", "/mnt/\0", &"/x".repeat(3000)] {
            assert!(!valid(directory, ".convoke-shared", "a1"), "{directory}");
        }
        for file in
            ["", "x", ".convoke-shared/../x", ".convoke-shared-", ".convoke-shared-a/b", ".convoke-sharedx"]
        {
            assert!(!valid("/mnt", file, "a1"), "{file}");
        }
        for id in ["", "a b", "a\n", &"x".repeat(65)] {
            assert!(!valid("/mnt", ".convoke-shared", id), "{id:?}");
        }
    }
}

//! What lies in a private copy now. Blocking.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use convoke_model::is_marker_file;
use serde::{Deserialize, Serialize};

use crate::files::cache::SINGLE;

/// Files and directories of one copy: what a shipped tree may have, and as much again that the job
/// makes. At a few hundred bytes each, the agent stays within some hundred MiB.
const MAX_ENTRIES: usize = 2_000_000;

/// The longest path that the coordinator takes, and that a submitter could have.
const MAX_PATH: usize = 4096;

/// Tells a file from what it was before: it changes with every write, rename and change of mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) size: u64,
    inode: u64,
    /// Nanoseconds since 1970.
    pub(crate) modified: i64,
    changed: i64,
}

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Which copy of the replica it is in.
    pub(crate) copy: usize,
    /// Relative to the mount; empty where the mount is the file.
    pub(crate) path: String,
    pub(crate) stamp: Stamp,
    /// Permission bits.
    pub(crate) mode: u32,
}

/// What does not come back, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Odd {
    pub(crate) copy: usize,
    /// Relative to the mount, as far as it can be said.
    pub(crate) path: String,
    pub(crate) why: &'static str,
}

/// Why a link stays.
pub(crate) const LINK: &str = "it is a symbolic link";

#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) files: Vec<Seen>,
    pub(crate) odd: Vec<Odd>,
    /// There is more than was looked at.
    pub(crate) cut: bool,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let nanos = |secs: i64, nanos: i64| secs.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            size: metadata.len(),
            inode: metadata.ino(),
            modified: nanos(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanos(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Scan {
    /// Looks through `root`, the copy of that number; adds to what other copies had.
    pub(crate) fn add(&mut self, copy: usize, root: &Path, single_file: bool) -> io::Result<()> {
        if single_file {
            return self.look(copy, root.join(SINGLE), String::new());
        }
        let mut open = vec![(root.to_owned(), String::new())];
        while let Some((directory, prefix)) = open.pop() {
            let entries = match fs::read_dir(directory) {
                // Deleted since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let path = entry?.path();
                if self.files.len() + self.odd.len() >= MAX_ENTRIES {
                    self.cut = true;
                    return Ok(());
                }
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let relative = if prefix.is_empty() { name.to_string() } else { format!("{prefix}/{name}") };
                if is_marker_file(&name) {
                    continue;
                }
                if let std::borrow::Cow::Owned(_) = name {
                    self.odd.push(Odd { copy, path: relative, why: "its name is not UTF-8" });
                    continue;
                }
                if relative.len() > MAX_PATH {
                    self.odd.push(Odd { copy, path: relative, why: "its path is too long" });
                    continue;
                }
                if path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
                    open.push((path, relative));
                } else {
                    self.look(copy, path, relative)?;
                }
            }
        }
        Ok(())
    }

    fn look(&mut self, copy: usize, path: PathBuf, relative: String) -> io::Result<()> {
        let metadata = match fs::symlink_metadata(&path) {
            // Deleted since it was listed, or not changed at all.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            metadata => metadata?,
        };
        let kind = metadata.file_type();
        if kind.is_file() {
            let (stamp, mode) = (Stamp::of(&metadata), metadata.mode() & 0o7777);
            self.files.push(Seen { copy, path: relative, stamp, mode });
        } else if kind.is_symlink() {
            self.odd.push(Odd { copy, path: relative, why: LINK });
        } else if !(kind.is_char_device() && metadata.rdev() == 0) {
            // The device 0/0 is an overlay's mark for what was deleted; deletions do not travel.
            self.odd.push(Odd { copy, path: relative, why: "it is no regular file" });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    #[test]
    fn regular_files_are_found_at_any_depth_and_the_rest_is_noted() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/c"), "x").unwrap();
        fs::write(root.join("a/.convoke-shared"), "a marker is no file of the job's").unwrap();
        fs::write(root.join("top"), "xy").unwrap();
        symlink("top", root.join("link")).unwrap();
        fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let mut scan = Scan::default();
        scan.add(3, root, false).unwrap();
        let mut found: Vec<_> = scan.files.iter().map(|f| (f.copy, f.path.as_str(), f.stamp.size)).collect();
        found.sort_unstable();
        assert_eq!(found, [(3, "a/b/c", 1), (3, "top", 2)]);
        let mut odd: Vec<_> = scan.odd.iter().map(|o| o.why).collect();
        odd.sort_unstable();
        assert_eq!(odd, ["it is a symbolic link", "it is no regular file", "its name is not UTF-8"]);
    }

    #[test]
    fn a_single_file_has_no_path_and_its_neighbours_are_not_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let mut scan = Scan::default();
        scan.add(0, directory.path(), true).unwrap();
        assert!(scan.files.is_empty(), "nothing was changed");
        fs::write(directory.path().join(SINGLE), "x").unwrap();
        fs::write(directory.path().join("other"), "x").unwrap();
        scan.add(0, directory.path(), true).unwrap();
        assert_eq!(scan.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), [""]);
    }
}

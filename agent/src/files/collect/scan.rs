//! What lies in a private copy now. Blocking.

use std::io;
use std::path::Path;

use cap_std::fs::{FileTypeExt as _, Metadata, MetadataExt as _, ReadDir};
use convoke_model::is_marker_file;
use serde::{Deserialize, Serialize};

use crate::beneath::is_elsewhere;
use crate::files::laid::OwnCopy;

/// Files and directories of one copy: what a shipped tree may have, and as much again that the job
/// makes. At a few hundred bytes each, the agent stays within some hundred MiB.
const MAX_ENTRIES: usize = 2_000_000;

/// The longest path that the system takes below a directory, and that a submitter could have.
const MAX_PATH: usize = 4095;

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
    pub(crate) why: String,
    /// It may be, or hold, content of the job's: no link and no FIFO.
    pub(crate) is_content: bool,
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
    /// Looks through a replica's copy of number `n`; adds to what other copies had. What cannot be looked at keeps
    /// nothing else from it.
    pub(super) fn add(&mut self, n: usize, copy: &OwnCopy, replica: &Path) -> io::Result<()> {
        if copy.single_file {
            self.look(n, String::new(), copy.changed(replica, "").metadata());
            return Ok(());
        }
        let root = copy.changes(replica);
        let mut open = Vec::new();
        self.list(n, "", root.entries()?, &mut open);
        while let Some(prefix) = open.pop() {
            match root.join(&prefix).entries() {
                // It is not what was listed any more.
                Err(error) if is_elsewhere(&error) => {}
                Err(error) => self.unreadable(n, prefix, &error),
                Ok(entries) => self.list(n, &prefix, entries, &mut open),
            }
        }
        Ok(())
    }

    /// Looks at what a directory has in it; adds its directories to `open`.
    fn list(&mut self, copy: usize, prefix: &str, entries: ReadDir, open: &mut Vec<String>) {
        for entry in entries {
            if self.files.len() + self.odd.len() + open.len() >= MAX_ENTRIES {
                self.cut = true;
                return;
            }
            let entry = match entry {
                Ok(entry) => entry,
                // What the directory has besides is not known.
                Err(error) => return self.unreadable(copy, prefix.to_owned(), &error),
            };
            let name = entry.file_name();
            let shown = name.to_string_lossy();
            if is_marker_file(&shown) {
                continue;
            }
            let relative = if prefix.is_empty() { shown.to_string() } else { format!("{prefix}/{shown}") };
            match entry.metadata() {
                Ok(metadata) if is_other(&metadata) => self.look(copy, relative, Ok(metadata)),
                _ if name.to_str().is_none() => {
                    self.odd(copy, relative, "its name is not UTF-8".to_owned(), true);
                }
                _ if relative.len() > MAX_PATH => {
                    self.odd(copy, relative, "its path is too long".to_owned(), true);
                }
                Ok(metadata) if metadata.is_dir() => open.push(relative),
                metadata => self.look(copy, relative, metadata),
            }
        }
    }

    fn look(&mut self, copy: usize, relative: String, metadata: io::Result<Metadata>) {
        let metadata = match metadata {
            // Deleted since it was listed, or not changed at all.
            Err(error) if is_elsewhere(&error) => return,
            Err(error) => return self.unreadable(copy, relative, &error),
            Ok(metadata) => metadata,
        };
        let kind = metadata.file_type();
        if kind.is_file() {
            let (stamp, mode) = (Stamp::of(&metadata), metadata.mode() & 0o7777);
            self.files.push(Seen { copy, path: relative, stamp, mode });
        } else if kind.is_symlink() {
            self.odd(copy, relative, LINK.to_owned(), false);
        } else if !(kind.is_char_device() && metadata.rdev() == 0) {
            // The device 0/0 is an overlay's mark for what was deleted; deletions do not travel.
            self.odd(copy, relative, "it is no regular file".to_owned(), false);
        }
    }

    fn unreadable(&mut self, copy: usize, path: String, error: &io::Error) {
        self.odd(copy, path, format!("it cannot be read: {error}"), true);
    }

    fn odd(&mut self, copy: usize, path: String, why: String, is_content: bool) {
        self.odd.push(Odd { copy, path, why, is_content });
    }
}

/// Neither a file nor a directory.
fn is_other(metadata: &Metadata) -> bool {
    !metadata.is_file() && !metadata.is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    #[test]
    fn regular_files_are_found_at_any_depth_and_the_rest_is_noted() {
        let directory = tempfile::tempdir().unwrap();
        let (copy, root) = OwnCopy::made_in(directory.path(), false);
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/c"), "x").unwrap();
        fs::write(root.join("a/.convoke-shared"), "a marker is no file of the job's").unwrap();
        fs::write(root.join("top"), "xy").unwrap();
        symlink("top", root.join("link")).unwrap();
        fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let mut scan = Scan::default();
        scan.add(3, &copy, directory.path()).unwrap();
        let mut found: Vec<_> = scan.files.iter().map(|f| (f.copy, f.path.as_str(), f.stamp.size)).collect();
        found.sort_unstable();
        assert_eq!(found, [(3, "a/b/c", 1), (3, "top", 2)]);
        let mut odd: Vec<_> = scan.odd.iter().map(|o| o.why.as_str()).collect();
        odd.sort_unstable();
        assert_eq!(odd, ["it is a symbolic link", "it is no regular file", "its name is not UTF-8"]);
    }

    #[test]
    fn a_path_that_is_too_deep_keeps_no_other_back() {
        use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
        let directory = tempfile::tempdir().unwrap();
        let (copy, root) = OwnCopy::made_in(directory.path(), false);
        fs::write(root.join("model.pt"), "weights").unwrap();
        let name = "d".repeat(98);
        let mut here = openat(CWD, &root, OFlags::DIRECTORY, Mode::empty()).unwrap();
        // Deeper than the system opens by one path, deeper still with the copy's own.
        for _ in 0..50 {
            mkdirat(&here, &name, Mode::RWXU).unwrap();
            here = openat(&here, &name, OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let mut scan = Scan::default();
        scan.add(0, &copy, directory.path()).unwrap();
        assert_eq!(scan.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["model.pt"]);
        let [deep] = scan.odd.as_slice() else { panic!("{}", scan.odd.len()) };
        assert_eq!((deep.why.as_str(), deep.is_content), ("its path is too long", true));
        assert!(deep.path.len() <= MAX_PATH + 99);
    }

    #[test]
    fn a_single_file_has_no_path_and_its_neighbours_are_not_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let (copy, root) = OwnCopy::made_in(directory.path(), true);
        let mut scan = Scan::default();
        scan.add(0, &copy, directory.path()).unwrap();
        assert!(scan.files.is_empty(), "nothing was changed");
        fs::write(root.join(crate::files::cache::SINGLE), "x").unwrap();
        fs::write(root.join("other"), "x").unwrap();
        scan.add(0, &copy, directory.path()).unwrap();
        assert_eq!(scan.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), [""]);
    }
}

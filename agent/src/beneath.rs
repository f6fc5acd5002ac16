//! Paths below a directory that a running job may change at any moment.
//!
//! A container can put a link in the place of any file or directory of its own between two looks, and the agent, as
//! a rule root, would follow it out to the host's files. So whatever the agent looks at, opens, makes or deletes there
//! is named by a [`Beneath`]: its root, which only the agent or the node's operator can replace, and the rest, which
//! is resolved by [`cap_std`] and never leads out of the root.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, Metadata, OpenOptions, OpenOptionsExt as _, ReadDir};

/// A path of a job's. Every call is blocking, and fails with [`is_elsewhere`] where the path leads out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beneath {
    root: PathBuf,
    /// Relative; `.` is the root itself.
    rest: PathBuf,
}

impl Beneath {
    pub fn new(root: PathBuf) -> Self {
        Self { root, rest: PathBuf::from(".") }
    }

    pub fn join(&self, more: impl AsRef<Path>) -> Self {
        // Pushing nothing would add a slash.
        let parts = self.rest.join(more);
        Self { root: self.root.clone(), rest: parts.components().collect() }
    }

    /// The whole path: for messages, and for the engine to mount.
    pub fn path(&self) -> PathBuf {
        self.root.join(&self.rest).components().collect()
    }

    /// Opens a regular file for reading: never what a link points to, and never waiting.
    pub fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = self.root()?.open_with(&self.rest, &options)?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::new(io::ErrorKind::NotADirectory, "it is no regular file any more")),
        }
    }

    /// What a directory has in it. The metadata of an entry is its own, and never what a link points to.
    pub fn entries(&self) -> io::Result<ReadDir> {
        self.root()?.read_dir(&self.rest)
    }

    /// Of the path itself, never of what a link points to.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.root()?.symlink_metadata(&self.rest)
    }

    /// Makes the directory and those above it, the root included.
    pub fn create_dir_all(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.root)?;
        self.root()?.create_dir_all(&self.rest)
    }

    /// Deletes the directory with all that is in it.
    pub fn remove_dir_all(&self) -> io::Result<()> {
        self.root()?.remove_dir_all(&self.rest)
    }

    fn root(&self) -> io::Result<Dir> {
        Dir::open_ambient_dir(&self.root, ambient_authority())
    }
}

impl fmt::Display for Beneath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().display().fmt(f)
    }
}

/// True if something else is there than was seen before: nothing, another kind of file, or a link.
pub fn is_elsewhere(error: &io::Error) -> bool {
    let left_the_root = error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none();
    left_the_root
        || error.raw_os_error() == Some(libc::ELOOP)
        || matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// What a job sees, and beside it what it must not.
    fn job() -> (tempfile::TempDir, Beneath) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("job/own/deep")).unwrap();
        fs::create_dir_all(directory.path().join("host/deep")).unwrap();
        for file in ["job/own/file", "host/file"] {
            fs::write(directory.path().join(file), file).unwrap();
        }
        let root = Beneath::new(directory.path().join("job"));
        (directory, root)
    }

    #[test]
    fn what_lies_below_the_root_is_reached_and_named_in_full() {
        let (directory, root) = job();
        let file = root.join("own/file");
        assert_eq!(file.path(), directory.path().join("job/own/file"));
        assert_eq!(io::read_to_string(file.open().unwrap()).unwrap(), "job/own/file");
        assert_eq!(root.join("").path(), directory.path().join("job"));
        assert_eq!(root.entries().unwrap().count(), 1);
        assert!(root.metadata().unwrap().is_dir());
        root.join("own/new/deeper").create_dir_all().unwrap();
        root.join("own/new").remove_dir_all().unwrap();
        assert!(is_elsewhere(&root.join("own/new").metadata().unwrap_err()));
        assert!(is_elsewhere(&root.join("own").open().unwrap_err()), "it is no file");
    }

    #[test]
    fn a_link_in_the_place_of_a_directory_leads_nowhere() {
        let (directory, root) = job();
        let host = directory.path().join("host");
        for target in ["../host".into(), host.clone()] {
            let own = directory.path().join("job/own");
            fs::remove_dir_all(&own).or_else(|_| fs::remove_file(&own)).unwrap();
            symlink(&target, &own).unwrap();
            let tried = [
                root.join("own/file").open().map(drop),
                root.join("own").entries().map(drop),
                root.join("own/file").metadata().map(drop),
                root.join("own/made").create_dir_all(),
                root.join("own/deep").remove_dir_all(),
            ];
            for outcome in tried {
                assert!(is_elsewhere(&outcome.unwrap_err()), "{target:?}");
            }
            assert_eq!(fs::read_dir(&host).unwrap().count(), 2, "nothing was made or deleted");
        }
    }

    #[test]
    fn the_last_link_is_not_followed_even_to_a_neighbour() {
        let (directory, root) = job();
        symlink("own/file", directory.path().join("job/link")).unwrap();
        assert!(is_elsewhere(&root.join("link").open().unwrap_err()));
        assert!(root.join("link").metadata().unwrap().is_symlink());
    }
}

//! The directory beside its place in which a copy arrives. One that a killed command left goes with the next copy
//! into the same place: it is locked for as long as its process lives.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tempfile::TempDir;

/// For people who see one.
const PREFIX: &str = ".convoke-cp-";
/// A new directory may be taken for an abandoned one before it is locked: by as many commands as begin at once.
const ATTEMPTS: usize = 16;

/// Goes when dropped.
#[derive(Debug)]
pub(super) struct Staging {
    // Before its lock.
    directory: TempDir,
    _lock: File,
}

impl Staging {
    pub(super) fn new(into: &Path) -> io::Result<Self> {
        clear_abandoned(into);
        for _ in 0..ATTEMPTS {
            let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(into)?;
            let Ok(lock) = File::open(directory.path()) else { continue };
            match lock.try_lock() {
                Ok(()) if same(&lock, directory.path()) => return Ok(Self { directory, _lock: lock }),
                // Somebody clears it away.
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                // Where nothing can be locked, nobody can take it for abandoned.
                Err(TryLockError::Error(_)) => return Ok(Self { directory, _lock: lock }),
            }
        }
        Err(io::Error::other("other copies into it get in the way; try again"))
    }

    pub(super) fn path(&self) -> &Path {
        self.directory.path()
    }
}

fn same(lock: &File, path: &Path) -> bool {
    let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let (held, there) = (lock.metadata().map(id), path.symlink_metadata().map(id));
    matches!((held, there), (Ok(held), Ok(there)) if held == there)
}

/// Removes this user's directories of commands that are gone. What cannot be removed is in nobody's way.
fn clear_abandoned(into: &Path) {
    let user = rustix::process::geteuid().as_raw();
    for entry in std::fs::read_dir(into).into_iter().flatten().flatten() {
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let is_ours = entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == user);
        let Some(lock) = is_ours.then(|| File::open(&path).ok()).flatten() else { continue };
        if lock.try_lock().is_ok() && same(&lock, &path) {
            // Locked all the while: whoever just made it sees that, and makes another one.
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_a_killed_copy_left_goes_with_the_next_one_and_what_a_living_one_has_stays() {
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("into");
        let (abandoned, mine) = (into.join(".convoke-cp-killed"), dir.path().join("mine"));
        fs::create_dir_all(abandoned.join("half")).unwrap();
        fs::create_dir(&mine).unwrap();
        fs::write(mine.join("file"), "").unwrap();
        symlink(&mine, into.join(".convoke-cp-link")).unwrap();
        symlink(&mine, abandoned.join("link")).unwrap();
        fs::write(into.join(".convoke-cp-file"), "").unwrap();
        let living = Staging::new(&into).unwrap();
        assert!(!abandoned.exists());
        let second = Staging::new(&into).unwrap();
        assert!(living.path().is_dir() && second.path().is_dir());
        assert!(mine.join("file").exists(), "no link is followed");
        drop((living, second));
        assert_eq!(fs::read_dir(&into).unwrap().count(), 2, "only what is no directory of a copy's");
    }
}

//! Deleting directories that others filled. Blocking.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Deletes a file or a directory, whatever is in it and whatever its bits; nothing there is fine.
/// Blocking.
pub(super) fn remove_all(path: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    if !metadata.is_dir() {
        return gone(fs::remove_file(path));
    }
    match fs::remove_dir_all(path) {
        // Directories that are closed to their owner, who is not root.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_directories(path)?;
            gone(fs::remove_dir_all(path))
        }
        removed => gone(removed),
    }
}

/// Makes every directory its owner's to change.
fn open_directories(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_directories(&entry.path())?;
        }
    }
    Ok(())
}

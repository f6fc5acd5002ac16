//! Overlay mounts: a private writable view of a read-only tree, in which the upper directory is exactly
//! what was changed.
//!
//! A mount outlives the agent: it is found again in `/proc/self/mountinfo`, by its place.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Every changed file is whole in the upper directory: no renames by reference, no metadata alone.
const WHOLE_FILES: &str = "redirect_dir=off,metacopy=off,index=off";

/// The directories of one overlay.
#[derive(Debug)]
pub(super) struct Overlay {
    pub(super) lower: PathBuf,
    pub(super) upper: PathBuf,
    pub(super) work: PathBuf,
    pub(super) merged: PathBuf,
}

impl Overlay {
    /// Mounts it; the directories are there.
    pub(super) fn mount(&self) -> io::Result<()> {
        let mut options = WHOLE_FILES.as_bytes().to_vec();
        for (name, path) in [("lowerdir", &self.lower), ("upperdir", &self.upper), ("workdir", &self.work)] {
            options.extend_from_slice(format!(",{name}=").as_bytes());
            options.extend(escaped(path));
        }
        let options = CString::new(options).map_err(|_| io::ErrorKind::InvalidInput)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        Ok(mount("convoke", &self.merged, "overlay", flags, Some(options.as_c_str()))?)
    }
}

/// Takes down every mount at or below `directory`.
pub(super) fn unmount_below(directory: &Path) -> io::Result<()> {
    // One that was mounted later may lie in an earlier one.
    for point in mount_points()?.iter().rev().filter(|point| point.starts_with(directory)) {
        // Detached: whoever still has it open must not keep the replica from going.
        unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    Ok(())
}

/// Why overlays cannot be used here; `None` if they can. Tried in `directory`.
pub(super) fn obstacle(directory: &Path) -> Option<String> {
    if own_namespace() {
        return Some(
            "the agent has a mount namespace of its own, and no engine would see its mounts".to_owned(),
        );
    }
    tried(directory).err().map(|error| error.to_string())
}

fn tried(directory: &Path) -> io::Result<()> {
    let place = tempfile::Builder::new().prefix(".overlay-").tempdir_in(directory)?;
    let make = |name: &str| {
        let path = place.path().join(name);
        fs::create_dir(&path).map(|()| path)
    };
    let overlay = Overlay {
        lower: make("lower")?,
        upper: make("upper")?,
        work: make("work")?,
        merged: make("merged")?,
    };
    fs::write(overlay.lower.join("file"), "as it was")?;
    overlay.mount()?;
    let written = fs::write(overlay.merged.join("file"), "changed");
    unmount_below(place.path())?;
    written?;
    match fs::read(overlay.upper.join("file")) {
        Ok(content) if content == b"changed" => Ok(()),
        _ => Err(io::Error::other("a change did not arrive in the upper directory")),
    }
}

/// Whether the host's first process lives in another mount namespace, as behind systemd's `PrivateTmp`.
/// Where that cannot be seen, it is taken for no.
fn own_namespace() -> bool {
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    matches!((of("self"), of("1")), (Some(own), Some(first)) if own != first)
}

/// In the order of mounting.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|b| *b == b'\n').filter_map(mount_point).collect())
}

/// The fifth field of a line: octal for blanks and backslashes.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|b| *b == b' ').nth(4)?;
    let (mut path, mut rest) = (Vec::new(), field);
    while let [first, tail @ ..] = rest {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) => {
                path.push(code);
                rest = &tail[3..];
            }
            None => {
                path.push(*first);
                rest = tail;
            }
        }
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(path)))
}

/// As an overlay's option: commas end an option, colons a directory.
fn escaped(path: &Path) -> impl Iterator<Item = u8> + '_ {
    path.as_os_str().as_bytes().iter().flat_map(|byte| {
        let escape = matches!(byte, b',' | b':' | b'\\').then_some(b'\\');
        escape.into_iter().chain([*byte])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_points_blanks_are_read_back() {
        let line = br"66 27 0:59 / /tmp/a\040b\134c rw,relatime - overlay convoke rw";
        assert_eq!(mount_point(line), Some(PathBuf::from(r"/tmp/a b\c")));
        assert_eq!(mount_point(b""), None);
    }

    #[test]
    fn a_path_with_separators_is_one_directory_of_the_overlay() {
        let escaped: Vec<u8> = escaped(Path::new("/a,b:c\\d")).collect();
        assert_eq!(escaped, br"/a\,b\:c\\d");
    }
}

//! A directory with a marker in it, so that others can be asked whether they see the same.
//!
//! The marker that stays may have been copied with its directory. So what is asked about is a second one,
//! made for this question and removed after it; where the directory cannot be written to, it is the first.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use convoke_model::{MARKER_FILE, Marker, is_marker_id};
use rustix::fs::{FsWord, Mode, OFlags};
use rustix::io::Errno;
use tempfile::NamedTempFile;
use uuid::Uuid;

/// Bytes that are read of a marker: more than any has.
const LONGEST: u64 = 256;

/// What statfs(2) says of file systems that several hosts may mount.
const SHARED: &[(FsWord, &str)] = &[
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xfe53_4d42, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x00c3_6400, "CephFS"),
    (0x0102_1997, "9p"),
    (0x6a65_6a63, "virtiofs"),
    (0x7461_636f, "OCFS2"),
    (0x0116_1970, "GFS2"),
    // Most of the others, virtiofs among them.
    (0x6573_5546, "FUSE"),
];

/// The kind of the file system that `path` is on, if hosts can share such.
pub(super) fn shared_kind(path: &Path) -> io::Result<Option<&'static str>> {
    let magic = rustix::fs::statfs(path)?.f_type;
    Ok(named(magic))
}

fn named(magic: FsWord) -> Option<&'static str> {
    SHARED.iter().find(|(known, _)| *known == magic).map(|(_, kind)| *kind)
}

/// Removes what was put there, unless it is to stay.
pub(super) struct Marked {
    /// What others are asked about.
    pub(super) asked: Marker,
    /// What stays, for those who mount the directory later.
    pub(super) lasting: Marker,
    /// The lasting one stays.
    pub(super) is_used: bool,
    /// It was not there before.
    made: Option<PathBuf>,
    question: Option<NamedTempFile>,
}

impl Marked {
    /// Marks `directory`; the error is for people. Blocking.
    pub(super) fn new(directory: &Path) -> Result<Self, String> {
        let directory = directory.canonicalize().map_err(|e| e.to_string())?;
        let path = directory.join(MARKER_FILE);
        let failed = |error: io::Error| format!("no marker can be made in it ({MARKER_FILE}: {error})");
        let (id, made) = match read(&path)? {
            Some(id) => (id, None),
            None => match make(&path) {
                Ok(id) => (id, Some(path.clone())),
                // Somebody else did.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    (read(&path)?.ok_or_else(|| failed(error))?, None)
                }
                Err(error) => return Err(failed(error)),
            },
        };
        let marker = |file: &str, id: &str| {
            let text = directory.to_str().ok_or("its path is not UTF-8")?;
            let marker = Marker { directory: text.to_owned(), file: file.to_owned(), id: id.to_owned() };
            marker.validate()?;
            Ok::<_, &str>(marker)
        };
        let mut marked = Self {
            asked: marker(MARKER_FILE, &id)?,
            lasting: marker(MARKER_FILE, &id)?,
            is_used: false,
            made,
            question: None,
        };
        if let Ok((file, id)) = question(&directory) {
            let name = file.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
            marked.asked = marker(name, &id)?;
            marked.question = Some(file);
        }
        Ok(marked)
    }
}

impl Drop for Marked {
    fn drop(&mut self) {
        if let Some(made) = self.made.as_ref().filter(|_| !self.is_used) {
            // What cannot be removed is found by the next submit, and used.
            let _ = fs::remove_file(made);
        }
    }
}

/// The id of a marker that is there. Jobs may write to the directory: no link is followed, and no pipe waited for.
fn read(path: &Path) -> Result<Option<String>, String> {
    let none = || Err(format!("{} is no marker; remove it", path.display()));
    let failed = |error: io::Error| format!("{} cannot be read: {error}", path.display());
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::NXIO) => return none(),
        Err(error) => return Err(failed(error.into())),
    };
    if !file.metadata().map_err(failed)?.is_file() {
        return none();
    }
    let mut id = String::new();
    match file.take(LONGEST).read_to_string(&mut id) {
        Ok(_) if is_marker_id(&id) => Ok(Some(id)),
        Ok(_) => none(),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => none(),
        Err(error) => Err(failed(error)),
    }
}

fn make(path: &Path) -> io::Result<String> {
    let id = Uuid::new_v4().simple().to_string();
    let mut file = File::create_new(path)?;
    let written = fill(&mut file, &id);
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written.map(|()| id)
}

/// A marker for one question, and its id.
fn question(directory: &Path) -> io::Result<(NamedTempFile, String)> {
    let id = Uuid::new_v4().simple().to_string();
    let name = format!("{MARKER_FILE}-{id}");
    let mut file = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempfile_in(directory)?;
    fill(file.as_file_mut(), &id)?;
    Ok((file, id))
}

fn fill(file: &mut File, id: &str) -> io::Result<()> {
    file.write_all(id.as_bytes())?;
    // The nodes' agents may be nobody in particular there. Not every file system has modes.
    let _ = file.set_permissions(Permissions::from_mode(0o644));
    // Others see it from here on.
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::names;

    #[test]
    fn a_marker_is_removed_unless_it_is_to_stay_and_then_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = Marked::new(dir.path()).unwrap();
        assert_eq!(names(dir.path()), [MARKER_FILE, &first.asked.file]);
        for marker in [&first.asked, &first.lasting] {
            assert_eq!(fs::read_to_string(marker.path()).unwrap(), marker.id);
        }
        drop(first);
        assert!(names(dir.path()).is_empty(), "nothing is left of a question whose answer was no");
        let mut kept = Marked::new(dir.path()).unwrap();
        kept.is_used = true;
        let (lasting, asked) = (kept.lasting.clone(), kept.asked.clone());
        drop(kept);
        assert_eq!(names(dir.path()), [MARKER_FILE]);
        let again = Marked::new(dir.path()).unwrap();
        assert_eq!(again.lasting, lasting);
        assert_ne!(again.asked, asked, "what may have been copied proves nothing");
        drop(again);
        assert_eq!(names(dir.path()), [MARKER_FILE], "it was there before");
    }

    #[test]
    fn the_directory_is_named_without_links() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        let marked = Marked::new(&link).unwrap();
        assert_eq!(Path::new(&marked.lasting.directory), real.canonicalize().unwrap());
    }

    #[test]
    fn a_file_of_that_name_that_is_no_marker_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MARKER_FILE), "not an id\n").unwrap();
        let problem = Marked::new(dir.path()).map(drop).unwrap_err();
        assert!(problem.contains("is no marker"), "{problem}");
        assert_eq!(fs::read_to_string(dir.path().join(MARKER_FILE)).unwrap(), "not an id\n");
    }

    #[test]
    fn what_a_job_put_in_the_markers_place_is_neither_followed_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(MARKER_FILE);
        fs::write(dir.path().join("elsewhere"), "a1b2").unwrap();
        std::os::unix::fs::symlink("elsewhere", &path).unwrap();
        assert!(Marked::new(dir.path()).map(drop).unwrap_err().contains("is no marker"));
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(Marked::new(dir.path()).map(drop).unwrap_err().contains("is no marker"));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(Marked::new(dir.path()).map(drop).unwrap_err().contains("is no marker"));
    }

    #[test]
    fn what_is_known_as_shared_is_told_by_its_name_and_memory_is_not() {
        assert_eq!(named(0x6969), Some("NFS"));
        // Temporary directories of tests are on a disk or in memory.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        assert_eq!(shared_kind(dir.path()).unwrap(), None);
    }
}

//! A manifest's entries as files.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use convoke_model::Digest;
use convoke_tree::{Entry, Kind, Manifest};
use rustix::fs::ioctl_ficlone;

use crate::files::owner::Owner;

/// Permission bits that files keep. Set-user-id has no business in what was shipped.
const FILE_MODE: u32 = 0o777;
/// Directories may also be sticky, or hand on their group.
const DIR_MODE: u32 = 0o3777;
/// Of the tree itself, of which a manifest says nothing.
pub(crate) const ROOT_MODE: u32 = 0o755;
/// The name of the file of a tree that is a single file.
pub(crate) const SINGLE: &str = "file";

/// Why a tree could not be laid out.
#[derive(Debug, thiserror::Error)]
pub enum LayError {
    #[error("{} cannot be made: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("blob {0} is gone from the cache")]
    Gone(Digest),
    #[error("it is no longer wanted")]
    Unwanted,
    #[error("what was being laid out did not come to an end: {0}")]
    Interrupted(String),
}

/// Whether files may be the blobs themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// For what nobody writes to.
    Hard,
    /// For a copy of somebody's own: sharing its blocks with the blob where the file system can do that.
    Never,
}

/// Who waits for threads that lay files out. Dropping it ends them, soon.
#[derive(Debug, Default)]
pub(crate) struct Supervisor(Arc<Shared>);

/// A thread's side of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Worker(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    done: AtomicU64,
}

impl Supervisor {
    pub(crate) fn worker(&self) -> Worker {
        Worker(self.0.clone())
    }

    /// Bytes of the files that were laid out.
    pub(crate) fn done(&self) -> u64 {
        self.0.done.load(Ordering::Relaxed)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

impl Worker {
    /// Asked between files.
    fn check(&self) -> Result<(), LayError> {
        if self.0.ended.load(Ordering::Relaxed) { Err(LayError::Unwanted) } else { Ok(()) }
    }

    fn did(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The permission bits that a laid-out file has.
pub(crate) fn file_mode(mode: u32) -> u32 {
    mode & FILE_MODE
}

/// Makes `root` with the tree in it; returns how many bytes are copies. Blocking.
pub(crate) fn lay_out(
    manifest: &Manifest,
    blob: &dyn Fn(Digest) -> PathBuf,
    root: &Path,
    owner: Owner,
    links: Links,
    worker: &Worker,
) -> Result<u64, LayError> {
    make_dir(root)?;
    let mut copied = 0;
    for Entry { path, mode, kind } in &manifest.entries {
        worker.check()?;
        let path = root.join(if path.is_empty() { SINGLE } else { path });
        match kind {
            Kind::Dir => make_dir(&path)?,
            Kind::Symlink { target } => make_link(&path, target, owner)?,
            Kind::File { size, digest } => {
                let source = blob(*digest);
                let made = make_file(&source, &path, file_mode(*mode), owner, links);
                if made.map_err(|source| failed(*digest, &path, source))? == Made::Copy {
                    copied += size;
                }
                worker.did(*size);
            }
        }
    }
    // Innermost first, and once they are filled: a directory may be closed to its maker.
    for Entry { path, mode, kind } in manifest.entries.iter().rev() {
        if *kind == Kind::Dir {
            finish_dir(&root.join(path), mode & DIR_MODE, owner)?;
        }
    }
    finish_dir(root, ROOT_MODE, owner)?;
    Ok(copied)
}

#[derive(Debug, PartialEq, Eq)]
enum Made {
    Link,
    Copy,
}

fn make_file(source: &Path, path: &Path, mode: u32, owner: Owner, links: Links) -> io::Result<Made> {
    if links == Links::Hard {
        let blob = fs::symlink_metadata(source)?;
        let fits = (blob.mode() & 0o7777, blob.uid(), blob.gid()) == (mode, owner.uid, owner.gid);
        // A blob may have too many names already.
        if fits && fs::hard_link(source, path).is_ok() {
            return Ok(Made::Link);
        }
    }
    let (mut from, mut to) = (File::open(source)?, File::create_new(path)?);
    if ioctl_ficlone(&to, &from).is_err() {
        io::copy(&mut from, &mut to)?;
    }
    // Giving a file away takes some of its bits.
    owner.take(&to)?;
    to.set_permissions(Permissions::from_mode(mode))?;
    Ok(Made::Copy)
}

fn failed(digest: Digest, path: &Path, source: io::Error) -> LayError {
    match source.kind() {
        io::ErrorKind::NotFound => LayError::Gone(digest),
        _ => LayError::Io { path: path.to_owned(), source },
    }
}

fn make_dir(path: &Path) -> Result<(), LayError> {
    let made = DirBuilder::new().mode(0o700).create(path);
    made.map_err(|source| LayError::Io { path: path.to_owned(), source })
}

fn make_link(path: &Path, target: &str, owner: Owner) -> Result<(), LayError> {
    let made = symlink(target, path).and_then(|()| Ok(owner.take_path(path)?));
    made.map_err(|source| LayError::Io { path: path.to_owned(), source })
}

fn finish_dir(path: &Path, mode: u32, owner: Owner) -> Result<(), LayError> {
    let done = owner.take_path(path).map_err(io::Error::from);
    let done = done.and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)));
    done.map_err(|source| LayError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest as _;

    fn digest(content: &str) -> Digest {
        Digest(sha2::Sha256::digest(content).into())
    }

    fn file(path: &str, mode: u32, content: &str) -> Entry {
        let kind = Kind::File { size: content.len() as u64, digest: digest(content) };
        Entry { path: path.to_owned(), mode, kind }
    }

    /// A directory of blobs, each with `mode`.
    fn blobs(contents: &[&str], mode: u32) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for content in contents {
            let path = directory.path().join(digest(content).to_string());
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
        directory
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn laid(blobs: &Path, root: &Path, entries: Vec<Entry>, links: Links) -> Result<u64, LayError> {
        let blob = |digest: Digest| blobs.join(digest.to_string());
        lay_out(&Manifest { entries }, &blob, root, Owner::agent(), links, &Worker::default())
    }

    #[test]
    fn modes_links_and_directories_are_as_in_the_manifest() {
        let (blobs, target) = (blobs(&["a", "run"], 0o644), tempfile::tempdir().unwrap());
        let root = target.path().join("tree");
        let entries = vec![
            Entry { path: "closed".into(), mode: 0o500, kind: Kind::Dir },
            file("closed/a", 0o644, "a"),
            Entry { path: "latest".into(), mode: 0o777, kind: Kind::Symlink { target: "closed/a".into() } },
            file("run.sh", 0o4755, "run"),
        ];
        let copied = laid(blobs.path(), &root, entries, Links::Hard).unwrap();
        assert_eq!(copied, 3, "the file with other bits than its blob is a copy");
        assert_eq!(mode(&root.join("closed")), 0o500);
        assert_eq!(mode(&root.join("closed/a")), 0o644);
        assert_eq!(mode(&root.join("run.sh")), 0o755, "set-user-id does not travel");
        assert_eq!(mode(&root), ROOT_MODE);
        assert_eq!(fs::read_link(root.join("latest")).unwrap(), Path::new("closed/a"));
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(
            inode(&root.join("closed/a")),
            inode(&blobs.path().join(digest("a").to_string())),
            "a file that fits is its blob"
        );
    }

    #[test]
    fn a_copy_of_somebodys_own_shares_no_file_with_the_cache() {
        let (blobs, target) = (blobs(&["a"], 0o644), tempfile::tempdir().unwrap());
        let root = target.path().join("tree");
        assert_eq!(laid(blobs.path(), &root, vec![file("a", 0o644, "a")], Links::Never).unwrap(), 1);
        fs::write(root.join("a"), "changed").unwrap();
        assert_eq!(fs::read_to_string(blobs.path().join(digest("a").to_string())).unwrap(), "a");
    }

    #[test]
    fn a_single_file_has_a_name_of_its_own() {
        let (blobs, target) = (blobs(&["a"], 0o644), tempfile::tempdir().unwrap());
        let root = target.path().join("tree");
        laid(blobs.path(), &root, vec![file("", 0o600, "a")], Links::Hard).unwrap();
        assert_eq!(fs::read_to_string(root.join(SINGLE)).unwrap(), "a");
        assert_eq!(mode(&root.join(SINGLE)), 0o600);
    }

    #[test]
    fn a_blob_that_is_gone_is_named() {
        let (blobs, target) = (blobs(&[], 0o644), tempfile::tempdir().unwrap());
        let root = target.path().join("tree");
        let error = laid(blobs.path(), &root, vec![file("a", 0o644, "a")], Links::Hard).unwrap_err();
        assert!(matches!(error, LayError::Gone(gone) if gone == digest("a")), "{error}");
    }
}

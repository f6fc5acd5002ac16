//! Finding every entry of a tree, in the order of manifests.

use std::ffi::OsString;
use std::fs::{self, FileType, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use convoke_model::is_marker_file;

use super::ignored::Ignored;
use super::stamp::Stamp;
use super::{Options, Progress, ScanError};
use crate::MAX_ENTRIES;
use crate::manifest::stays;

/// Permission bits, without the file's type.
const MODE: u32 = 0o7777;

pub(super) struct Found {
    /// As in a manifest.
    pub(super) path: String,
    pub(super) mode: u32,
    pub(super) kind: FoundKind,
}

pub(super) enum FoundKind {
    File(Stamp),
    Dir,
    Symlink(String),
}

impl Found {
    pub(super) fn size(&self) -> u64 {
        match &self.kind {
            FoundKind::File(stamp) => stamp.size,
            FoundKind::Dir | FoundKind::Symlink(_) => 0,
        }
    }
}

/// Where an entry lies; the nameless entry of a single file is the root itself.
pub(super) fn below(root: &Path, path: &str) -> PathBuf {
    if path.is_empty() { root.to_owned() } else { root.join(path) }
}

pub(super) fn walk(root: &Path, options: &Options<'_>, progress: &Progress) -> Result<Vec<Found>, ScanError> {
    let metadata = fs::metadata(root).map_err(|e| unreadable(root, e))?;
    let ignored = Ignored::above(root, options.project)?;
    let mut walk = Walk { root, progress, ignored, open: Vec::new(), found: Vec::new() };
    if metadata.is_dir() {
        walk.enter(root, String::new())?;
        while walk.step()? {}
    } else {
        walk.entry(root, String::new(), &metadata)?;
    }
    Ok(walk.found)
}

struct Walk<'a> {
    /// Canonical.
    root: &'a Path,
    progress: &'a Progress,
    ignored: Ignored,
    /// From the root to where the walk is. A list and no recursion: two thousand levels fit into a path.
    open: Vec<Dir>,
    found: Vec<Found>,
}

struct Dir {
    path: PathBuf,
    relative: String,
    has_ignore_file: bool,
    /// Still to see, in order.
    names: std::vec::IntoIter<OsString>,
}

impl Walk<'_> {
    fn enter(&mut self, dir: &Path, relative: String) -> Result<(), ScanError> {
        let names = fs::read_dir(dir).and_then(|entries| {
            entries.map(|entry| entry.map(|e| e.file_name())).collect::<io::Result<Vec<_>>>()
        });
        let mut names = names.map_err(|e| unreadable(dir, e))?;
        names.sort_unstable();
        let has_ignore_file = self.ignored.enter(dir)?;
        self.open.push(Dir { path: dir.to_owned(), relative, has_ignore_file, names: names.into_iter() });
        Ok(())
    }

    /// Sees the next entry; false at the end.
    fn step(&mut self) -> Result<bool, ScanError> {
        let Some(dir) = self.open.last_mut() else { return Ok(false) };
        let Some(name) = dir.names.next() else {
            if dir.has_ignore_file {
                self.ignored.leave();
            }
            self.open.pop();
            return Ok(true);
        };
        if name.to_str().is_some_and(is_marker_file) {
            return Ok(true);
        }
        let path = dir.path.join(&name);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            // Gone since the directory was read: it might as well have gone before.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(unreadable(&path, e)),
        };
        if self.ignored.matches(&path, metadata.is_dir()) {
            return Ok(true);
        }
        let Some(name) = name.to_str() else { return Err(ScanError::NotUtf8 { path }) };
        let relative =
            if dir.relative.is_empty() { name.to_owned() } else { format!("{}/{name}", dir.relative) };
        self.entry(&path, relative, &metadata)?;
        Ok(true)
    }

    fn entry(&mut self, path: &Path, relative: String, metadata: &Metadata) -> Result<(), ScanError> {
        self.progress.check()?;
        if self.found.len() == MAX_ENTRIES {
            return Err(ScanError::TooMany { root: self.root.to_owned() });
        }
        self.progress.entries.fetch_add(1, Ordering::Relaxed);
        let mode = metadata.permissions().mode() & MODE;
        let kind = metadata.file_type();
        let kind = if kind.is_dir() {
            self.enter(path, relative.clone())?;
            FoundKind::Dir
        } else if kind.is_file() {
            FoundKind::File(Stamp::of(metadata))
        } else if kind.is_symlink() {
            FoundKind::Symlink(self.target(path, &relative)?)
        } else {
            return Err(ScanError::Special { path: path.to_owned(), what: special(kind) });
        };
        self.found.push(Found { path: relative, mode, kind });
        Ok(())
    }

    /// A link's target, if that stays within the tree by its text and by what it leads to.
    fn target(&self, path: &Path, relative: &str) -> Result<String, ScanError> {
        let target = fs::read_link(path).map_err(|e| unreadable(path, e))?;
        let Some(text) = target.to_str() else { return Err(ScanError::NotUtf8 { path: path.to_owned() }) };
        let out =
            |target: String| ScanError::LinkOut { path: path.to_owned(), target, root: self.root.to_owned() };
        let parent = relative.rsplit_once('/').map_or("", |(parent, _)| parent);
        if !stays(parent, text) {
            return Err(out(text.to_owned()));
        }
        // A link through another link may lead elsewhere than its text says. One that leads nowhere
        // may be filled later.
        match path.canonicalize() {
            Ok(real) if !real.starts_with(self.root) => Err(out(real.display().to_string())),
            _ => Ok(text.to_owned()),
        }
    }
}

fn special(kind: FileType) -> &'static str {
    if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_block_device() || kind.is_char_device() {
        "a device"
    } else {
        "neither file, directory nor link"
    }
}

fn unreadable(path: &Path, source: io::Error) -> ScanError {
    ScanError::Unreadable { path: path.to_owned(), source }
}

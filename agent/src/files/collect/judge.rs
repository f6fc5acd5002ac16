//! Reading a file that has come to rest. Blocking.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use convoke_model::Digest;
use convoke_tree::{Entry, Kind, Manifest};
use sha2::{Digest as _, Sha256};

use super::scan::{Seen, Stamp};
use crate::files::cache::file_mode;

const BUFFER: usize = 1 << 20;

/// What a copy was at the start.
#[derive(Debug, Default)]
pub(super) struct Start(HashMap<String, Was>);

#[derive(Debug, PartialEq, Eq)]
enum Was {
    File(Digest, u32),
    Link,
}

/// What a file is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Content(Digest),
    /// It changed, or went, while it was read.
    Moving,
}

impl Start {
    pub(super) fn of(manifest: &Manifest) -> Self {
        let was = |Entry { path, mode, kind }: &Entry| match kind {
            Kind::File { digest, .. } => Some((path.clone(), Was::File(*digest, file_mode(*mode)))),
            Kind::Symlink { .. } => Some((path.clone(), Was::Link)),
            Kind::Dir => None,
        };
        Self(manifest.entries.iter().filter_map(was).collect())
    }

    /// True if the file is as it was.
    pub(super) fn had(&self, path: &str, digest: Digest, mode: u32) -> bool {
        self.0.get(path) == Some(&Was::File(digest, mode))
    }

    /// The content that was there.
    pub(super) fn digest(&self, path: &str) -> Option<Digest> {
        match self.0.get(path) {
            Some(Was::File(digest, _)) => Some(*digest),
            Some(Was::Link) | None => None,
        }
    }

    /// True if there was a link.
    pub(super) fn had_link(&self, path: &str) -> bool {
        self.0.get(path) == Some(&Was::Link)
    }
}

/// Opens a file of the job's: never what a link points to, and never waiting.
pub(super) fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Hashes a file, which must be `seen` from the first byte to the last.
pub(super) fn read(path: &Path, seen: &Seen) -> io::Result<Read> {
    let mut file = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Read::Moving),
        Err(error) => return Err(error),
    };
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; BUFFER]);
    // A file that grows as fast as it is read ends here all the same.
    let mut content = file.by_ref().take(seen.stamp.size + 1);
    loop {
        match content.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let is_same = Stamp::of(&file.metadata()?) == seen.stamp;
    Ok(if is_same { Read::Content(Digest(hasher.finalize().into())) } else { Read::Moving })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::collect::scan::Scan;
    use std::fs;

    #[test]
    fn a_file_that_changed_since_it_was_seen_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, "one").unwrap();
        let mut scan = Scan::default();
        scan.add(0, directory.path(), false).unwrap();
        let seen = &scan.files[0];
        let expected = Digest(Sha256::digest("one").into());
        assert_eq!(read(&path, seen).unwrap(), Read::Content(expected));
        fs::write(&path, "other").unwrap();
        assert_eq!(read(&path, seen).unwrap(), Read::Moving);
        fs::remove_file(&path).unwrap();
        assert_eq!(read(&path, seen).unwrap(), Read::Moving);
    }
}

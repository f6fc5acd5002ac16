//! Reading a file that has come to rest. Blocking.

use std::collections::HashMap;
use std::io::{self, Read as _};

use convoke_model::Digest;
use convoke_tree::{Entry, Kind, Manifest};
use sha2::{Digest as _, Sha256};

use super::scan::{Seen, Stamp};
use crate::beneath::{Beneath, is_elsewhere};
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
    /// It changed, or went, while it was read; or it was not read to its end.
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

/// Hashes a file, which must be `seen` from the first byte to the last. `go_on` is told how many bytes were read
/// since, and says whether the rest is wanted.
pub(super) fn read(path: &Beneath, seen: &Seen, mut go_on: impl FnMut(u64) -> bool) -> io::Result<Read> {
    let mut file = match path.open() {
        Ok(file) => file,
        Err(error) if is_elsewhere(&error) => return Ok(Read::Moving),
        Err(error) => return Err(error),
    };
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; BUFFER]);
    // A file that grows as fast as it is read ends here all the same.
    let mut content = file.by_ref().take(seen.stamp.size + 1);
    loop {
        let n = content.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        if !go_on(n as u64) {
            return Ok(Read::Moving);
        }
    }
    let is_same = Stamp::of(&file.metadata()?) == seen.stamp;
    Ok(if is_same { Read::Content(Digest(hasher.finalize().into())) } else { Read::Moving })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::collect::scan::Scan;
    use crate::files::laid::OwnCopy;
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_file_that_changed_since_it_was_seen_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let (copy, root) = OwnCopy::made_in(directory.path(), false);
        let path = root.join("a");
        fs::write(&path, "one").unwrap();
        let mut scan = Scan::default();
        scan.add(0, &copy, directory.path()).unwrap();
        let seen = &scan.files[0];
        let expected = Digest(Sha256::digest("one").into());
        let read = || read(&copy.changed(directory.path(), &seen.path), seen, |_| true).unwrap();
        assert_eq!(read(), Read::Content(expected));
        let given_up = super::read(&copy.changed(directory.path(), &seen.path), seen, |_| false).unwrap();
        assert_eq!(given_up, Read::Moving, "nobody wants the rest");
        fs::write(&path, "other").unwrap();
        assert_eq!(read(), Read::Moving);
        fs::remove_file(&path).unwrap();
        assert_eq!(read(), Read::Moving);
    }

    #[test]
    fn a_directory_that_is_swapped_with_a_link_while_it_is_looked_through_shows_nothing_of_the_host() {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        const ROUNDS: usize = 2_000;
        let directory = tempfile::tempdir().unwrap();
        let (copy, root) = OwnCopy::made_in(directory.path(), false);
        let host = directory.path().join("host");
        for place in [root.join("own"), host.clone()] {
            fs::create_dir(&place).unwrap();
        }
        fs::write(root.join("own/mine"), "mine").unwrap();
        fs::write(host.join("shadow"), "root's").unwrap();
        std::os::unix::fs::symlink(&host, root.join("link")).unwrap();
        let swapping = AtomicBool::new(true);
        let looks = std::thread::scope(|scope| {
            scope.spawn(|| {
                while swapping.load(Ordering::Relaxed) {
                    let (own, link) = (root.join("own"), root.join("link"));
                    renameat_with(CWD, &own, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                }
            });
            let look = |_| {
                let mut scan = Scan::default();
                let scanned = scan.add(0, &copy, directory.path());
                let read = |seen: &Seen| read(&copy.changed(directory.path(), &seen.path), seen, |_| true);
                let files: Vec<_> = scan.files.iter().map(|seen| (seen.path.clone(), read(seen))).collect();
                (scanned, files)
            };
            let looks: Vec<_> = (0..ROUNDS).map(look).collect();
            swapping.store(false, Ordering::Relaxed);
            looks
        });
        let mine = Read::Content(Digest(Sha256::digest("mine").into()));
        for (scanned, files) in looks {
            scanned.expect("it does not keep others from being looked at");
            for (path, content) in files {
                assert!(path.ends_with("/mine"), "{path}");
                let content = content.unwrap();
                assert!(content == mine || content == Read::Moving);
            }
        }
    }
}

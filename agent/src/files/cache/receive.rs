//! Writing blobs as they arrive: verified while written, named when whole.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use convoke_model::Digest;
use convoke_proto::v1::blob_part::Part;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

use super::dirs::{Dirs, Wanted};
use super::lay::file_mode;
use crate::files::owner::Owner;

/// From this size on a blob is on the disk before the next one is written: else a fetch that is faster than
/// the disk would end with minutes of waiting for it.
const SYNC_FROM: u64 = 4 << 20;

/// A file's owner may read it, whatever the submitter's bits: an agent that is not root copies from it.
const READABLE: u32 = 0o400;

/// Why nothing more was written.
#[derive(Debug)]
pub(super) enum WriteError {
    Damaged(Digest),
    Malformed(String),
    Io { path: PathBuf, source: io::Error },
}

/// Writes one batch.
pub(super) struct Receiver {
    dirs: Dirs,
    owner: Owner,
    /// What did not come yet; the last one is next.
    left: Vec<Wanted>,
    current: Option<Current>,
}

struct Current {
    wanted: Wanted,
    file: NamedTempFile,
    hasher: Sha256,
    size: u64,
}

impl Receiver {
    pub(super) fn new(dirs: Dirs, mut batch: Vec<Wanted>, owner: Owner) -> Self {
        batch.reverse();
        Self { dirs, owner, left: batch, current: None }
    }

    /// Takes parts until there are no more; returns what did not come. `written` is told the size of
    /// each blob that is in place. Blocking.
    pub(super) fn write_all(
        mut self,
        mut parts: mpsc::Receiver<Part>,
        written: impl Fn(u64),
    ) -> (Vec<Wanted>, Result<(), WriteError>) {
        let mut outcome = Ok(());
        while let Some(part) = parts.blocking_recv() {
            outcome = self.take(part, &written);
            if outcome.is_err() {
                break;
            }
        }
        self.left.extend(self.current.take().map(|current| current.wanted));
        self.left.reverse();
        (self.left, outcome)
    }

    fn take(&mut self, part: Part, written: &impl Fn(u64)) -> Result<(), WriteError> {
        match part {
            Part::Header(header) => self.begin(&header.sha256, header.size)?,
            Part::Data(data) => {
                let Some(current) = &mut self.current else {
                    return Err(WriteError::Malformed("bytes before a blob".to_owned()));
                };
                current.size += data.len() as u64;
                if current.size > current.wanted.size {
                    return Err(WriteError::Damaged(current.wanted.digest));
                }
                current.hasher.update(&data);
                let path = self.dirs.tmp();
                current.file.write_all(&data).map_err(|source| WriteError::Io { path, source })?;
            }
        }
        if self.current.as_ref().is_some_and(|current| current.size == current.wanted.size) {
            self.finish(written)?;
        }
        Ok(())
    }

    fn begin(&mut self, sha256: &[u8], size: u64) -> Result<(), WriteError> {
        if let Some(current) = &self.current {
            return Err(WriteError::Damaged(current.wanted.digest));
        }
        let Some(wanted) = self.left.pop() else {
            return Err(WriteError::Malformed("more blobs than were asked for".to_owned()));
        };
        if wanted.digest.0 != *sha256 || wanted.size != size {
            let problem =
                format!("another blob, or another size, than {} with {}", wanted.digest, wanted.size);
            self.left.push(wanted);
            return Err(WriteError::Malformed(problem));
        }
        let path = self.dirs.tmp();
        let file = self.dirs.temporary().map_err(|source| WriteError::Io { path, source })?;
        self.current = Some(Current { wanted, file, hasher: Sha256::new(), size: 0 });
        Ok(())
    }

    fn finish(&mut self, written: &impl Fn(u64)) -> Result<(), WriteError> {
        let Some(Current { wanted, file, hasher, .. }) = self.current.take() else { return Ok(()) };
        if hasher.finalize()[..] != wanted.digest.0 {
            let digest = wanted.digest;
            self.left.push(wanted);
            return Err(WriteError::Damaged(digest));
        }
        let path = self.dirs.blob(wanted.digest);
        if let Err(source) = self.place(file, &wanted, &path) {
            self.left.push(wanted);
            return Err(WriteError::Io { path, source });
        }
        written(wanted.size);
        Ok(())
    }

    fn place(&self, file: NamedTempFile, wanted: &Wanted, path: &std::path::Path) -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        if wanted.size >= SYNC_FROM {
            file.as_file().sync_data()?;
        }
        self.owner.take(file.as_file())?;
        file.as_file().set_permissions(Permissions::from_mode(file_mode(wanted.mode) | READABLE))?;
        file.persist(path)?;
        Ok(())
    }
}

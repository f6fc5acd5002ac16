//! Writing blobs as they arrive: verified while written, named when whole.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use convoke_model::Digest;
use convoke_proto::v1::BlobHeader;
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

/// What did not come yet.
#[derive(Default)]
pub(super) struct Left {
    /// The first one is next.
    pub(super) blobs: Vec<Wanted>,
    /// What came of the first one.
    begun: Option<Current>,
}

impl Left {
    pub(super) fn new(blobs: Vec<Wanted>) -> Self {
        Self { blobs, begun: None }
    }

    /// Bytes of the first one that are here.
    pub(super) fn offset(&self) -> u64 {
        self.begun.as_ref().map_or(0, |begun| begun.size)
    }
}

/// Writes one batch.
pub(super) struct Receiver {
    dirs: Dirs,
    owner: Owner,
    /// What did not come yet; the last one is next.
    left: Vec<Wanted>,
    /// What an earlier stream brought of that one.
    begun: Option<Current>,
    current: Option<Current>,
}

struct Current {
    wanted: Wanted,
    file: NamedTempFile,
    hasher: Sha256,
    size: u64,
}

impl Receiver {
    pub(super) fn new(dirs: Dirs, batch: Left, owner: Owner) -> Self {
        let Left { mut blobs, begun } = batch;
        blobs.reverse();
        Self { dirs, owner, left: blobs, begun, current: None }
    }

    /// Takes parts until there are no more; returns what did not come. `written` is told the size of
    /// each blob that is in place. Blocking.
    pub(super) fn write_all(
        mut self,
        mut parts: mpsc::Receiver<Part>,
        written: impl Fn(u64),
    ) -> (Left, Result<(), WriteError>) {
        let mut outcome = Ok(());
        while let Some(part) = parts.blocking_recv() {
            outcome = self.take(part, &written);
            if outcome.is_err() {
                break;
            }
        }
        // Before the first header came, what an earlier stream brought still stands.
        let mut begun = self.begun.take();
        if let Some(current) = self.current.take() {
            self.left.push(current.wanted.clone());
            // What is not as it should be is not built upon.
            begun = outcome.is_ok().then_some(current);
        }
        self.left.reverse();
        (Left { blobs: self.left, begun }, outcome)
    }

    fn take(&mut self, part: Part, written: &impl Fn(u64)) -> Result<(), WriteError> {
        match part {
            Part::Header(header) => self.begin(&header)?,
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

    fn begin(&mut self, header: &BlobHeader) -> Result<(), WriteError> {
        if let Some(current) = &self.current {
            return Err(WriteError::Damaged(current.wanted.digest));
        }
        let Some(wanted) = self.left.pop() else {
            return Err(WriteError::Malformed("more blobs than were asked for".to_owned()));
        };
        let here = self.begun.take();
        if wanted.digest.0 != header.sha256[..] || wanted.size != header.size {
            let problem =
                format!("another blob, or another size, than {} with {}", wanted.digest, wanted.size);
            self.left.push(wanted);
            return Err(WriteError::Malformed(problem));
        }
        self.current = Some(match here {
            Some(here) if here.size == header.offset => here,
            // Also where a coordinator knows no offsets.
            _ if header.offset == 0 => {
                let path = self.dirs.tmp();
                let file = self.dirs.temporary().map_err(|source| WriteError::Io { path, source })?;
                Current { wanted, file, hasher: Sha256::new(), size: 0 }
            }
            _ => {
                let problem =
                    format!("{} from byte {}, which was not asked for", wanted.digest, header.offset);
                self.left.push(wanted);
                return Err(WriteError::Malformed(problem));
            }
        });
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

//! Reading a stored checkpoint: every file is checked against its hash while it is read.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};

use bytes::Bytes;
use convoke_model::{Checkpoint, CheckpointRef, Digest, Rank, ShardFile};
use sha2::{Digest as _, Sha256};

use super::{Store, StoreError};

/// Bytes of one part; a message's limit is 1 MiB.
const CHUNK: usize = 512 << 10;

/// What comes next of a checkpoint.
#[derive(Debug)]
pub(crate) enum Part {
    /// A file begins.
    File(Rank, ShardFile),
    /// The next bytes of that file.
    Data(Bytes),
}

/// Reads a checkpoint's files one after the other. Blocks on the disk.
pub(crate) struct CheckpointReader {
    store: Store,
    reference: CheckpointRef,
    waiting: VecDeque<(Rank, ShardFile)>,
    current: Option<Current>,
}

struct Current {
    rank: Rank,
    entry: ShardFile,
    file: File,
    hasher: Sha256,
    remaining: u64,
}

impl CheckpointReader {
    pub(crate) fn new(store: &Store, checkpoint: &Checkpoint) -> Self {
        let files = checkpoint.shards.iter().flat_map(|s| s.files.iter().map(|f| (s.rank, f.clone())));
        Self {
            store: store.clone(),
            reference: checkpoint.reference.clone(),
            waiting: files.collect(),
            current: None,
        }
    }

    /// The next part; `None` after the last. A file's hash is checked at its end, so bytes count
    /// only when the whole has been read without an error.
    pub(crate) fn next(&mut self) -> Result<Option<Part>, StoreError> {
        if let Some(mut current) = self.current.take() {
            if current.remaining > 0 {
                let data = self.read(&mut current)?;
                self.current = Some(current);
                return Ok(Some(Part::Data(data)));
            }
            current.check()?;
        }
        let Some((rank, entry)) = self.waiting.pop_front() else { return Ok(None) };
        let path = self.store.shard_dir(&self.reference, rank).join(&entry.path);
        let file = File::open(path).map_err(|error| self.explain(error, rank, &entry))?;
        let remaining = entry.size;
        let part = Part::File(rank, entry.clone());
        self.current = Some(Current { rank, entry, file, hasher: Sha256::new(), remaining });
        Ok(Some(part))
    }

    fn read(&self, current: &mut Current) -> Result<Bytes, StoreError> {
        let want = usize::try_from(current.remaining).map_or(CHUNK, |left| left.min(CHUNK));
        let mut buffer = vec![0; want];
        let read = current.file.read_exact(&mut buffer);
        read.map_err(|error| self.explain(error, current.rank, &current.entry))?;
        current.hasher.update(&buffer);
        current.remaining -= want as u64;
        Ok(buffer.into())
    }

    fn explain(&self, error: io::Error, rank: Rank, entry: &ShardFile) -> StoreError {
        let gone = !self.store.checkpoint_dir(&self.reference).exists();
        match error.kind() {
            io::ErrorKind::NotFound if gone => StoreError::Deleted(self.reference.clone()),
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => {
                StoreError::Damaged { rank, path: entry.path.clone() }
            }
            _ => error.into(),
        }
    }
}

impl Current {
    fn check(self) -> Result<(), StoreError> {
        if Digest(self.hasher.finalize().into()) == self.entry.digest {
            return Ok(());
        }
        Err(StoreError::Damaged { rank: self.rank, path: self.entry.path })
    }
}

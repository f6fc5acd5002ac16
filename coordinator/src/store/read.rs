//! Reading a stored checkpoint: every file is checked against its hash while it is read.

use std::collections::VecDeque;
use std::fs::File;
use std::io;

use bytes::Bytes;
use convoke_model::{Checkpoint, CheckpointRef, Rank, ShardFile};

use super::{Store, StoreError};
use crate::hashed::HashedReader;

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
    file: HashedReader,
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
            let read = current.file.next(CHUNK);
            if let Some(data) = read.map_err(|error| self.explain(error, current.rank, &current.entry))? {
                self.current = Some(current);
                return Ok(Some(Part::Data(data)));
            }
            current.check()?;
        }
        let Some((rank, entry)) = self.waiting.pop_front() else { return Ok(None) };
        let path = self.store.shard_dir(&self.reference, rank).join(&entry.path);
        let file = File::open(path).map_err(|error| self.explain(error, rank, &entry))?;
        let part = Part::File(rank, entry.clone());
        let file = HashedReader::new(file, entry.size);
        self.current = Some(Current { rank, entry, file });
        Ok(Some(part))
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
        if self.file.finish().1 == self.entry.digest {
            return Ok(());
        }
        Err(StoreError::Damaged { rank: self.rank, path: self.entry.path })
    }
}

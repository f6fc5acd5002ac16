//! Receiving one shard: sizes and hashes are checked while the bytes are written.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use convoke_model::{CheckpointRef, Shard, ShardFile};

use super::{Store, StoreError};
use crate::data_dir::sync_dir;
use crate::hashed::HashedWriter;

/// A shard that is being received. Dropped before [`ShardWriter::place`], it removes itself.
pub(crate) struct ShardWriter {
    store: Store,
    dir: PathBuf,
    shard: Shard,
    /// Files that are complete.
    done: usize,
    current: Option<HashedWriter>,
}

impl ShardWriter {
    pub(crate) fn new(store: &Store, shard: Shard) -> Result<Self, StoreError> {
        let dir = store.temporary()?;
        let mut writer = Self { store: store.clone(), dir, shard, done: 0, current: None };
        writer.advance()?;
        Ok(writer)
    }

    /// The next bytes of the shard.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            let Some(current) = &mut self.current else { return Err(StoreError::ExtraBytes) };
            bytes = current.write(bytes)?;
            self.advance()?;
        }
        Ok(())
    }

    /// Completes files that have all their bytes, and opens the next one.
    fn advance(&mut self) -> Result<(), StoreError> {
        loop {
            if let Some(current) = &self.current {
                if current.remaining() > 0 {
                    return Ok(());
                }
                self.complete()?;
            }
            let Some(file) = self.shard.files.get(self.done) else { return Ok(()) };
            self.current = Some(create(&self.dir, file)?);
        }
    }

    fn complete(&mut self) -> Result<(), StoreError> {
        let Some(current) = self.current.take() else { return Ok(()) };
        let file = &self.shard.files[self.done];
        let (written, found) = current.finish();
        if found != file.digest {
            let path = file.path.clone();
            return Err(StoreError::HashMismatch { path, found, expected: file.digest });
        }
        if let Some(written) = written {
            written.sync_all()?;
        }
        self.done += 1;
        Ok(())
    }

    /// All bytes have come: makes the directories durable.
    pub(crate) fn finish(&mut self) -> Result<(), StoreError> {
        if let Some(current) = &self.current {
            let path = self.shard.files[self.done].path.clone();
            return Err(StoreError::ShortBody { path, missing: current.remaining() });
        }
        sync_tree(&self.dir)?;
        Ok(())
    }

    /// Renames the finished shard into place, over one that the catalogue does not know.
    pub(crate) fn place(mut self, reference: &CheckpointRef) -> Result<(), StoreError> {
        let target = self.store.shard_dir(reference, self.shard.rank);
        self.store.remove_shard(reference, self.shard.rank)?;
        let checkpoint = self.store.checkpoint_dir(reference);
        std::fs::create_dir_all(&checkpoint)?;
        std::fs::rename(&self.dir, target)?;
        self.dir = PathBuf::new();
        sync_dir(&checkpoint)?;
        sync_dir(&self.store.job_dir(&reference.job))?;
        sync_dir(&self.store.root)?;
        Ok(())
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        if !self.dir.as_os_str().is_empty() {
            // The next start removes what this does not.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn create(dir: &Path, file: &ShardFile) -> Result<HashedWriter, StoreError> {
    // The message's conversion has refused paths that lead out of the directory.
    let path = dir.join(&file.path);
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| File::create_new(&path));
    let opened = made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => {
            StoreError::BadPath { path: file.path.clone() }
        }
        _ => error.into(),
    })?;
    Ok(HashedWriter::new(Some(opened), file.size))
}

/// Makes the entries of a directory and of those below it durable.
fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    sync_dir(dir)
}

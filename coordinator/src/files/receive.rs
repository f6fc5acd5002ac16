//! Receiving blobs, one after the other: each is checked while it is written, and a batch of them is
//! made durable and put in place at a time.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use convoke_model::Digest;

use super::durable::make_durable;
use super::space::Promise;
use super::{BlobError, Blobs, MAX_BLOB, TEMPORARY, touch_file};
use crate::data_dir::sync_dir;
use crate::hashed::HashedWriter;

/// Bytes and blobs of one batch. A batch costs two syncs, tens of milliseconds: with half a second of
/// writing between them they do not count, and a stream that breaks loses no more than that.
const BATCH_BYTES: u64 = 512 << 20;
const BATCH_BLOBS: usize = 4_096;

/// The blobs of one stream. Dropped before [`BlobWriter::finish`], it removes what is not in place.
pub(crate) struct BlobWriter {
    store: Blobs,
    dir: PathBuf,
    /// Whole and checked, but not in place yet.
    batch: Vec<(Digest, PathBuf)>,
    batch_bytes: u64,
    current: Option<Current>,
    /// Blobs that are in place.
    stored: u64,
}

struct Current {
    digest: Digest,
    size: u64,
    /// `None` where the blob is there already.
    path: Option<PathBuf>,
    writer: HashedWriter,
    _space: Option<Promise>,
}

impl BlobWriter {
    pub(crate) fn new(store: &Blobs) -> Result<Self, BlobError> {
        let dir = store.root.join(TEMPORARY).join(uuid::Uuid::new_v4().to_string());
        std::fs::create_dir(&dir)?;
        let (batch, batch_bytes) = (Vec::new(), 0);
        Ok(Self { store: store.clone(), dir, batch, batch_bytes, current: None, stored: 0 })
    }

    /// Ends the blob before, and begins one.
    pub(crate) fn begin(&mut self, digest: Digest, size: u64) -> Result<(), BlobError> {
        self.check_whole()?;
        if size > MAX_BLOB {
            return Err(BlobError::TooLarge { digest, size });
        }
        // One of another size was damaged on the disk, if this one's hash is right.
        let known =
            self.store.size(&digest)? == Some(size) || self.batch.iter().any(|(known, _)| *known == digest);
        self.current = Some(match known {
            true => Current { digest, size, path: None, writer: HashedWriter::new(None, size), _space: None },
            false => {
                let space = self.store.space.promise(size)?;
                let path = self.dir.join(self.batch.len().to_string());
                let file = File::create_new(&path)?;
                let writer = HashedWriter::new(Some(file), size);
                Current { digest, size, path: Some(path), writer, _space: Some(space) }
            }
        });
        self.end_if_whole()
    }

    /// The next bytes of the blob begun last.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let current = self.current.as_mut().ok_or(BlobError::ExtraBytes)?;
        if !current.writer.write(bytes)?.is_empty() {
            return Err(BlobError::ExtraBytes);
        }
        self.end_if_whole()
    }

    /// Everything has come: makes it durable. Returns how many blobs of this stream are stored now.
    pub(crate) fn finish(mut self) -> Result<u64, BlobError> {
        self.check_whole()?;
        self.settle()?;
        Ok(self.stored)
    }

    fn check_whole(&self) -> Result<(), BlobError> {
        match &self.current {
            None => Ok(()),
            Some(current) => {
                let (digest, missing) = (current.digest, current.writer.remaining());
                Err(BlobError::ShortBody { digest, missing })
            }
        }
    }

    fn end_if_whole(&mut self) -> Result<(), BlobError> {
        let Some(current) = self.current.take_if(|current| current.writer.remaining() == 0) else {
            return Ok(());
        };
        let (_, found) = current.writer.finish();
        if found != current.digest {
            return Err(BlobError::HashMismatch { expected: current.digest, found });
        }
        match current.path {
            None => self.stored += 1,
            Some(path) => {
                self.batch.push((current.digest, path));
                self.batch_bytes += current.size;
            }
        }
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_BLOBS {
            self.settle()?;
        }
        Ok(())
    }

    /// Makes the batch durable, puts it in place, and makes that durable. The bytes come first: a blob
    /// in place is whole, whenever the power fails.
    fn settle(&mut self) -> Result<(), BlobError> {
        let root = &self.store.root;
        make_durable(root, self.batch.iter().map(|(_, path)| path.as_path()))?;
        let mut changed: BTreeSet<PathBuf> = BTreeSet::new();
        for (digest, path) in &self.batch {
            let target = self.store.path(digest);
            let dir = target.parent().expect("a blob lies in the directory of its prefix");
            if !changed.contains(dir) && !dir.exists() {
                // Another stream may make it at the same time.
                std::fs::create_dir_all(dir)?;
                sync_dir(root)?;
            }
            let _there = self.store.places.read().unwrap_or_else(PoisonError::into_inner);
            touch_file(path)?;
            std::fs::rename(path, &target)?;
            changed.insert(dir.to_owned());
        }
        make_durable(root, changed.iter().map(PathBuf::as_path))?;
        self.stored += self.batch.len() as u64;
        self.batch.clear();
        self.batch_bytes = 0;
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        remove_dir(&self.dir);
    }
}

fn remove_dir(dir: &Path) {
    // The next start removes what this does not.
    let _ = std::fs::remove_dir_all(dir);
}

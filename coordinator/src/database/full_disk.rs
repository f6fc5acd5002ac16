//! A disk that tests can fill up.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::{DatabaseFile, Schema};

/// Opens a file on a disk that is full while `full` says so.
pub(crate) fn open_on(path: &Path, schema: &'static Schema, full: Arc<AtomicBool>) -> DatabaseFile {
    let own = path.to_owned();
    let opener = move || {
        let file = std::fs::File::options().create(true).truncate(false).read(true).write(true).open(&own)?;
        redb::Builder::new()
            .create_with_backend(FullDisk { file: FileBackend::new(file)?, full: full.clone() })
    };
    DatabaseFile::with_opener(path, schema, Box::new(opener)).unwrap()
}

#[derive(Debug)]
struct FullDisk {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl FullDisk {
    fn check(&self) -> io::Result<()> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl StorageBackend for FullDisk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check().and_then(|()| self.file.set_len(len))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.check().and_then(|()| self.file.sync_data())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check().and_then(|()| self.file.write(offset, data))
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

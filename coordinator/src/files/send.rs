//! Sending blobs, one after the other; each that is read whole is checked against its hash meanwhile.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};

use bytes::Bytes;
use convoke_model::Digest;

use super::{BlobError, Blobs};
use crate::hashed::HashedReader;

/// Bytes of one part, as the contract has it.
const CHUNK: usize = 1 << 20;

/// What comes next of the blobs.
#[derive(Debug)]
pub(crate) enum Part {
    /// A blob of `size` bytes begins; its data at `offset`.
    Header { digest: Digest, size: u64, offset: u64 },
    /// The next bytes of that blob.
    Data(Bytes),
}

/// Reads blobs in the order in which they were asked for.
pub(crate) struct BlobReader {
    store: Blobs,
    waiting: VecDeque<Digest>,
    /// Bytes of the next blob to be left out.
    offset: u64,
    current: Option<Current>,
}

struct Current {
    digest: Digest,
    reader: HashedReader,
    /// All of it is read.
    whole: bool,
}

impl BlobReader {
    /// All of them must be here; they count as asked for now. Of the first one `offset` bytes are left out.
    pub(crate) fn new(store: &Blobs, digests: Vec<Digest>, offset: u64) -> Result<Self, BlobError> {
        if let Some(missing) = store.missing(&digests)?.first() {
            return Err(BlobError::Unknown(*missing));
        }
        Ok(Self { offset, ..Self::over(store, digests) })
    }

    /// The same without looking first, nor asking for them.
    pub(super) fn over(store: &Blobs, digests: Vec<Digest>) -> Self {
        Self { store: store.clone(), waiting: digests.into(), offset: 0, current: None }
    }

    /// The next part; `None` after the last. A blob's hash is checked at its end, so bytes count only
    /// when the next part has come without an error.
    pub(crate) fn next(&mut self) -> Result<Option<Part>, BlobError> {
        if let Some(Current { digest, mut reader, whole }) = self.current.take() {
            match reader.next(CHUNK) {
                Ok(Some(data)) => {
                    self.current = Some(Current { digest, reader, whole });
                    return Ok(Some(Part::Data(data)));
                }
                Ok(None) if whole => self.store.check(digest, reader)?,
                // Who has the rest checks it, and asks for all of it where that does not fit.
                Ok(None) => {}
                Err(error) if is_damage(&error) => return Err(self.store.damaged(digest, reader.file())),
                Err(error) => return Err(error.into()),
            }
        }
        let Some(digest) = self.waiting.pop_front() else { return Ok(None) };
        let mut file = self.store.open_blob(&digest)?;
        let (size, offset) = (file.metadata()?.len(), std::mem::take(&mut self.offset));
        let rest = size.checked_sub(offset).ok_or(BlobError::BadOffset { digest, size, offset })?;
        if offset > 0 {
            file.seek(SeekFrom::Start(offset))?;
        }
        self.current = Some(Current { digest, reader: HashedReader::new(file, rest), whole: offset == 0 });
        Ok(Some(Part::Header { digest, size, offset }))
    }
}

impl Blobs {
    fn open_blob(&self, digest: &Digest) -> Result<File, BlobError> {
        File::open(self.path(digest)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => BlobError::Unknown(*digest),
            _ => error.into(),
        })
    }

    /// Checks a blob that was read to its end.
    fn check(&self, digest: Digest, reader: HashedReader) -> Result<(), BlobError> {
        let (file, found) = reader.finish();
        if found == digest { Ok(()) } else { Err(self.damaged(digest, &file)) }
    }

    fn damaged(&self, digest: Digest, file: &File) -> BlobError {
        match self.put_aside(&digest, file) {
            Ok(()) => BlobError::Damaged(digest),
            Err(error) => error.into(),
        }
    }
}

/// Whether reading failed because of the file: it lost bytes, or the disk cannot read them.
fn is_damage(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
        || rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::IO)
}

//! Files whose bytes are hashed while they are written or read.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use bytes::Bytes;
use convoke_model::Digest;
use sha2::{Digest as _, Sha256};

/// A file that is being received.
pub(crate) struct HashedWriter {
    file: Option<File>,
    hasher: Sha256,
    remaining: u64,
}

impl HashedWriter {
    /// Without a file the bytes are only checked.
    pub(crate) fn new(file: Option<File>, size: u64) -> Self {
        Self { file, hasher: Sha256::new(), remaining: size }
    }

    /// Bytes that have not come yet.
    pub(crate) fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Takes what belongs to this file; returns the rest.
    pub(crate) fn write<'a>(&mut self, bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        let here = usize::try_from(self.remaining).map_or(bytes.len(), |left| left.min(bytes.len()));
        let (own, rest) = bytes.split_at(here);
        if let Some(file) = &mut self.file {
            file.write_all(own)?;
        }
        self.hasher.update(own);
        self.remaining -= own.len() as u64;
        Ok(rest)
    }

    /// The file, not synced yet, and the hash of its bytes.
    pub(crate) fn finish(self) -> (Option<File>, Digest) {
        (self.file, Digest(self.hasher.finalize().into()))
    }
}

/// A file that is being sent.
pub(crate) struct HashedReader {
    file: File,
    hasher: Sha256,
    remaining: u64,
}

impl HashedReader {
    pub(crate) fn new(file: File, size: u64) -> Self {
        Self { file, hasher: Sha256::new(), remaining: size }
    }

    /// The next bytes, at most `limit`; `None` at the end. A file that is shorter than its size is an
    /// `UnexpectedEof`.
    pub(crate) fn next(&mut self, limit: usize) -> io::Result<Option<Bytes>> {
        if self.remaining == 0 {
            return Ok(None);
        }
        let want = usize::try_from(self.remaining).map_or(limit, |left| left.min(limit));
        let mut buffer = vec![0; want];
        self.file.read_exact(&mut buffer)?;
        self.hasher.update(&buffer);
        self.remaining -= want as u64;
        Ok(Some(buffer.into()))
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The file, and the hash of the bytes that were read.
    pub(crate) fn finish(self) -> (File, Digest) {
        (self.file, Digest(self.hasher.finalize().into()))
    }
}

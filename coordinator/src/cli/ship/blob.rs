//! Content that may have to be sent, and where it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use convoke_model::{Digest, TreeRef};
use convoke_tree::Manifest;
use convoke_tree::scan::Source;

#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) origin: Origin,
}

#[derive(Debug, Clone)]
pub(super) enum Origin {
    Memory(Bytes),
    /// A file of the submitter's, which may change at any time.
    Scanned(Source),
    /// A file of our own.
    Spooled(PathBuf),
}

impl Origin {
    /// `None` where it is not what was hashed any more.
    pub(super) fn open(&self) -> io::Result<Option<Box<dyn Read>>> {
        Ok(match self {
            Self::Memory(bytes) => Some(Box::new(Cursor::new(bytes.clone()))),
            Self::Spooled(path) => Some(Box::new(File::open(path)?)),
            Self::Scanned(source) => source.open()?.map(|file| Box::new(file) as Box<dyn Read>),
        })
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Memory(_) => None,
            Self::Scanned(source) => Some(&source.path),
            Self::Spooled(path) => Some(path),
        }
    }
}

/// A directory's content, with what it takes to send it.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) reference: TreeRef,
    pub(super) manifest: Arc<Manifest>,
    encoded: Bytes,
    pub(super) origins: BTreeMap<Digest, Origin>,
}

impl Tree {
    pub(super) fn new(manifest: Manifest, origins: BTreeMap<Digest, Origin>) -> Self {
        let encoded = Bytes::from(manifest.encode());
        Self { reference: manifest.reference(), manifest: Arc::new(manifest), encoded, origins }
    }

    /// Every content of it, its manifest last: whoever has that has all.
    pub(super) fn digests(&self) -> impl Iterator<Item = Digest> {
        self.manifest.blobs().map(|(digest, _)| digest).chain([self.reference.digest])
    }

    /// What of `wanted` it can send.
    pub(super) fn blobs(&self, wanted: impl Fn(&Digest) -> bool) -> BTreeMap<Digest, Blob> {
        let mut blobs = BTreeMap::new();
        for (digest, size) in self.manifest.blobs().filter(|(digest, _)| wanted(digest)) {
            if let Some(origin) = self.origins.get(&digest) {
                blobs.insert(digest, Blob { digest, size, origin: origin.clone() });
            }
        }
        let digest = self.reference.digest;
        if wanted(&digest) {
            let (size, origin) = (self.encoded.len() as u64, Origin::Memory(self.encoded.clone()));
            blobs.insert(digest, Blob { digest, size, origin });
        }
        blobs
    }
}

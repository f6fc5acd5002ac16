//! Trees: whether everything is here that a job would be laid out from.

use convoke_model::{Digest, TreeRef};
use convoke_tree::{Entry, Kind, Manifest, ManifestError};

use super::{BlobError, BlobReader, Blobs, Part};

/// Bytes of one manifest: a million entries, which is a tree's limit, are about 150 MB.
const MAX_MANIFEST: u64 = 256 << 20;

/// What is wrong with a tree that a job refers to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TreeError {
    #[error("manifest {0} is not stored here")]
    NoManifest(Digest),
    #[error("manifest {0} has {1} bytes, more than {MAX_MANIFEST}; ship fewer files, or pack them")]
    TooLarge(Digest, u64),
    #[error("blob {0} is not a manifest: {1}")]
    NotAManifest(Digest, ManifestError),
    #[error("manifest {tree} lists {files} files of {bytes} bytes in all, and not what the job says of it")]
    WrongTotals { tree: Digest, files: u64, bytes: u64 },
    #[error(
        "{missing} of the {files} files that manifest {tree} lists are not stored here, {path:?} the first"
    )]
    Missing { tree: Digest, missing: u64, files: u64, path: String },
    #[error("manifest {tree} gives {path:?} {listed} bytes, but its content has {found}")]
    WrongSize { tree: Digest, path: String, listed: u64, found: u64 },
    #[error(transparent)]
    Store(BlobError),
}

impl From<BlobError> for TreeError {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Unknown(digest) | BlobError::Damaged(digest) => Self::NoManifest(digest),
            other => Self::Store(other),
        }
    }
}

impl Blobs {
    /// Checks that the whole tree is here; all of it counts as asked for now.
    pub(crate) fn check_tree(&self, tree: &TreeRef) -> Result<(), TreeError> {
        self.touch(&tree.digest).map_err(BlobError::from)?;
        let manifest = self.manifest(tree.digest)?;
        let (mut files, mut bytes, mut missing) = (0, 0u64, 0);
        let mut first = None;
        for Entry { path, kind, .. } in &manifest.entries {
            let Kind::File { size, digest } = kind else { continue };
            files += 1;
            bytes = bytes.saturating_add(*size);
            match self.size_checked(digest, *size)? {
                None => {
                    missing += 1;
                    first.get_or_insert(path);
                }
                Some(found) if found != *size => {
                    let (tree, path) = (tree.digest, path.clone());
                    return Err(TreeError::WrongSize { tree, path, listed: *size, found });
                }
                Some(_) => {}
            }
        }
        if let Some(path) = first {
            return Err(TreeError::Missing { tree: tree.digest, missing, files, path: path.clone() });
        }
        if (files, bytes) != (tree.files, tree.bytes) {
            return Err(TreeError::WrongTotals { tree: tree.digest, files, bytes });
        }
        Ok(())
    }

    /// A manifest, read and checked, which does not count as asking for it. One that is damaged is put
    /// aside, and is then missing.
    pub(super) fn manifest(&self, digest: Digest) -> Result<Manifest, TreeError> {
        let mut reader = BlobReader::over(self, vec![digest]);
        let mut content = Vec::new();
        while let Some(part) = reader.next()? {
            match part {
                Part::Header { size, .. } if size > MAX_MANIFEST => {
                    return Err(TreeError::TooLarge(digest, size));
                }
                Part::Header { size, .. } => content.reserve(usize::try_from(size).unwrap_or_default()),
                Part::Data(bytes) => content.extend_from_slice(&bytes),
            }
        }
        Manifest::decode(&content).map_err(|error| TreeError::NotAManifest(digest, error))
    }
}

//! Where everything lies in the cache, and the steps that need no more than the disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use convoke_model::Digest;
use convoke_tree::{Entry, Kind, Manifest};
use tempfile::{NamedTempFile, TempDir};
use tracing::info;

use super::FetchError;
use super::lay::{LayError, Links, Worker, lay_out};
use crate::files::owner::Owner;
use crate::files::remove_all;

/// Changes with every boot of the host.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Extension of the file that says how many bytes of a laid-out tree are copies.
pub(super) const OWN: &str = "own";

/// A blob that is not here yet, and the permission bits of its first use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) mode: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Dirs {
    root: PathBuf,
    replicas: PathBuf,
}

impl Dirs {
    pub(super) fn open(root: &Path, replicas: &Path) -> io::Result<Self> {
        let dirs = Self { root: root.to_owned(), replicas: replicas.to_owned() };
        for directory in ["blobs", "trees", "tmp"] {
            fs::create_dir_all(root.join(directory))?;
        }
        for entry in fs::read_dir(dirs.tmp())? {
            remove_all(&entry?.path())?;
        }
        dirs.drop_unsure()?;
        Ok(dirs)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn replicas(&self) -> &Path {
        &self.replicas
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(super) fn blob(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.blobs().join(&name[..2]).join(name)
    }

    pub(super) fn trees(&self) -> PathBuf {
        self.root.join("trees")
    }

    pub(super) fn tree(&self, digest: Digest) -> PathBuf {
        self.trees().join(digest.to_string())
    }

    pub(super) fn manifest(&self, digest: Digest) -> PathBuf {
        self.tree(digest).join("manifest.json")
    }

    pub(super) fn stored(&self, digest: Digest) -> PathBuf {
        self.tree(digest).join("stored")
    }

    /// A file that is given its name later, or none.
    pub(super) fn temporary(&self) -> io::Result<NamedTempFile> {
        NamedTempFile::new_in(self.tmp())
    }

    /// Notes that the tree is asked for, now.
    pub(super) fn note(&self, digest: Digest, manifest: &Manifest) -> io::Result<()> {
        let path = self.manifest(digest);
        if let Ok(file) = File::options().append(true).open(&path) {
            return file.set_modified(SystemTime::now());
        }
        fs::create_dir_all(self.tree(digest))?;
        let mut file = self.temporary()?;
        file.write_all(&manifest.encode())?;
        file.persist(path)?;
        Ok(())
    }

    /// The blobs of a tree that are not here, each once.
    pub(super) fn missing(&self, manifest: &Manifest) -> Vec<Wanted> {
        let mut missing = BTreeMap::new();
        for Entry { mode, kind, .. } in &manifest.entries {
            if let Kind::File { size, digest } = *kind {
                missing.entry(digest).or_insert(Wanted { digest, size, mode: *mode });
            }
        }
        let is_here = |wanted: &Wanted| {
            fs::symlink_metadata(self.blob(wanted.digest)).is_ok_and(|m| m.len() == wanted.size)
        };
        missing.into_values().filter(|wanted| !is_here(wanted)).collect()
    }

    /// Every blob is here: makes sure that they stay, and says so.
    pub(super) fn seal(&self, digest: Digest) -> Result<(), FetchError> {
        let sealed = || {
            rustix::fs::syncfs(File::open(&self.root)?)?;
            self.temporary()?.persist(self.stored(digest))?;
            Ok(())
        };
        sealed().map_err(|source| FetchError::Io { path: self.tree(digest), source })
    }

    /// The tree laid out for `owner`; made unless it is there. Its turn is the caller's.
    pub(super) fn lay(
        &self,
        digest: Digest,
        manifest: &Manifest,
        owner: Owner,
        worker: &Worker,
    ) -> Result<PathBuf, LayError> {
        let target = self.tree(digest).join(owner.to_string());
        if target.is_dir() {
            return Ok(target);
        }
        let io = |source| LayError::Io { path: target.clone(), source };
        // Deleted when this ends early.
        let made = TempDir::new_in(self.tmp()).map_err(io)?;
        let root = made.path().join("tree");
        let blob = |digest| self.blob(digest);
        let copied = lay_out(manifest, &blob, &root, owner, Links::Hard, worker)?;
        if copied > 0 {
            // Names come after content: links are safe by their blobs, copies are not.
            File::open(&root).and_then(|root| Ok(rustix::fs::syncfs(root)?)).map_err(io)?;
        }
        fs::write(self.tree(digest).join(format!("{owner}.{OWN}")), copied.to_string()).map_err(io)?;
        fs::rename(&root, &target).map_err(io)?;
        Ok(target)
    }

    /// In a new boot, drops blobs that were never synced.
    fn drop_unsure(&self) -> io::Result<()> {
        let noted = self.root.join("boot");
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        if fs::read_to_string(&noted).is_ok_and(|before| before == boot) {
            return Ok(());
        }
        let dropped = super::evict::drop_unsealed(self)?;
        if dropped > 0 {
            info!(
                blobs = dropped,
                "the host was restarted; files that were not safely stored are fetched again"
            );
        }
        fs::write(noted, boot)
    }
}

//! The node's cache of blobs: what was fetched once is not fetched again.
//!
//! ```text
//! cache/
//!   boot                           the boot of this host in which blobs were written last
//!   blobs/aa/<sha256>              content; a name is there once size and hash were verified
//!   trees/<sha256>/manifest.json   a tree that was asked for; its time is the tree's last use
//!   trees/<sha256>/stored          all its blobs are here, and on disk
//!   trees/<sha256>/<uid>.<gid>/    the tree laid out: hard links to blobs, where owner and mode allow
//!   trees/<sha256>/<uid>.<gid>.own bytes of that which are copies
//!   tmp/                           what is being made; emptied at start
//! ```
//!
//! A tree goes *asked for* → *stored* → *laid out*, each step under a temporary name and then renamed:
//! kill -9 at any moment leaves whole blobs, which are not fetched again, and a `tmp/` that the next start
//! empties. A host that went down without notice may have lost bytes of renamed files: blobs that no stored
//! tree vouches for are dropped in a new boot.
//!
//! Nobody but the agent writes here, and the state directory is closed to others; tasks see laid-out
//! trees through read-only mounts, or below an overlay.
//!
//! Failures: a full disk gives back what the tree had brought; a broken connection is mended and goes on
//! with the blobs that are missing; damaged bytes are never given a name.

mod dirs;
mod evict;
pub(super) mod fetch;
mod holds;
mod lay;
mod receive;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use convoke_model::{Digest, TreeRef};
use convoke_tree::{Manifest, ManifestError};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tonic::Status;

use self::dirs::Dirs;
use self::holds::{Hold, Holds};
pub use self::lay::LayError;
pub(super) use self::lay::{Links, ROOT_MODE, SINGLE, Supervisor, Worker, file_mode, lay_out};
use super::owner::Owner;
use super::space::{Shortage, Space};
use super::turns::Turns;
use crate::blocking::blocking;
use crate::link::Link;

/// Default size of the cache: enough for some data sets and images, and never most of the disk.
const MOST: u64 = 100 << 30;
const PART_OF_DISK: u64 = 5;

/// Why a tree could not be brought here.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("the coordinator cannot be reached: {0}")]
    Connect(#[from] convoke_transport::ConnectError),
    #[error("{}", .0.message())]
    Status(#[from] Box<Status>),
    #[error("the coordinator sent nothing for {0} s")]
    Stalled(u64),
    #[error("the disk took nothing for {0} s")]
    DiskStalled(u64),
    #[error("blob {0} arrived damaged")]
    Damaged(Digest),
    #[error("the coordinator sent something else than what was asked for: {0}")]
    Malformed(String),
    #[error("{0} is not a tree: {1}")]
    Manifest(Digest, ManifestError),
    #[error("the disk of {} is full: {shortage}", .path.display())]
    Full { path: PathBuf, shortage: Shortage },
    #[error("{} cannot be used: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("what was being written did not come to an end: {0}")]
    Interrupted(String),
}

/// Is told from time to time how many bytes of how many are here.
pub type Told<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// A handle; clones share the cache.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dirs: Dirs,
    link: Arc<Link>,
    holds: Holds,
    /// Bytes that it may have.
    limit: u64,
    /// It may have more: something came since that was looked at, or what is in use did not let it shrink.
    may_exceed: AtomicBool,
    /// Held for moments: while a tree is taken up, and while others are evicted. So an eviction
    /// knows every tree that anybody has begun to use.
    gate: Arc<Mutex<()>>,
    /// One fetch and one layout of a tree at a time.
    turns: Turns<Digest>,
    /// What fetches that are under way will still write.
    pending: fetch::Pending,
}

/// A tree whose blobs are all here, and stay here as long as this lives.
#[derive(Debug)]
pub struct Tree {
    pub digest: Digest,
    pub manifest: Arc<Manifest>,
    _hold: Hold,
}

impl Cache {
    /// Opens the cache in `root`. `replicas` holds what replicas use; see `super::laid`.
    pub fn open(root: &Path, replicas: &Path, link: Arc<Link>, limit: Option<u64>) -> io::Result<Self> {
        let dirs = Dirs::open(root, replicas)?;
        let limit = match limit {
            Some(limit) => limit,
            None => MOST.min(Space::at(root)?.total / PART_OF_DISK),
        };
        Ok(Self(Arc::new(Inner {
            dirs,
            link,
            limit,
            may_exceed: AtomicBool::new(true),
            holds: Holds::default(),
            gate: Arc::default(),
            turns: Turns::default(),
            pending: fetch::Pending::default(),
        })))
    }

    /// Brings a tree here: its manifest and every blob that is missing.
    pub async fn fetch(&self, tree: &TreeRef, told: Told<'_>) -> Result<Tree, FetchError> {
        self.fetch_for(tree, Owner::agent(), told).await
    }

    /// What a tree consists of; nothing of it is fetched.
    pub async fn manifest(&self, tree: &TreeRef) -> Result<Manifest, FetchError> {
        match self.known(tree.digest).await? {
            Some(manifest) => Ok(manifest),
            None => fetch::manifest(&self.0.link, tree.digest).await,
        }
    }

    /// Where a blob of a fetched tree is, to be read.
    pub fn path(&self, digest: Digest) -> PathBuf {
        self.0.dirs.blob(digest)
    }

    /// The same as [`Cache::fetch`]; what is new is made `owner`'s, so that it need not be copied for it.
    pub(super) async fn fetch_for(
        &self,
        tree: &TreeRef,
        owner: Owner,
        told: Told<'_>,
    ) -> Result<Tree, FetchError> {
        let hold = self.hold(tree.digest).await;
        let _turn = self.0.turns.take(tree.digest).await;
        let manifest = match self.known(tree.digest).await? {
            Some(manifest) => manifest,
            None => fetch::manifest(&self.0.link, tree.digest).await?,
        };
        self.complete(hold, manifest, owner, told).await
    }

    /// A tree that was put together here, of blobs that the coordinator has.
    pub(super) async fn compose(
        &self,
        manifest: Manifest,
        owner: Owner,
        told: Told<'_>,
    ) -> Result<Tree, FetchError> {
        let bytes = manifest.encode();
        let digest = Digest(Sha256::digest(&bytes).into());
        // What others read must pass their checks.
        let manifest = Manifest::decode(&bytes).map_err(|e| FetchError::Manifest(digest, e))?;
        let hold = self.hold(digest).await;
        let _turn = self.0.turns.take(digest).await;
        self.complete(hold, manifest, owner, told).await
    }

    /// The tree as `owner`'s directory (or, for a single file, a directory with the file in it), shared by
    /// all who mount it read-only.
    pub(super) async fn laid(
        &self,
        tree: &Tree,
        owner: Owner,
        supervisor: &Supervisor,
    ) -> Result<PathBuf, LayError> {
        let turn = self.0.turns.take(tree.digest).await;
        let (dirs, digest, manifest) = (self.0.dirs.clone(), tree.digest, tree.manifest.clone());
        self.0.may_exceed.store(true, Ordering::Relaxed);
        let worker = supervisor.worker();
        blocking(move || {
            // Until the thread is done, whoever else waits for it.
            let _turn = turn;
            dirs.lay(digest, &manifest, owner, &worker)
        })
        .await
        .map_err(LayError::Interrupted)?
    }

    /// Deletes what was not used for longest until the cache has its size and the disk some room.
    pub async fn tidy(&self) -> Result<(), FetchError> {
        let gate = self.0.gate.clone().lock_owned().await;
        let inner = self.0.clone();
        let io = |source| FetchError::Io { path: self.0.dirs.root().to_owned(), source };
        blocking(move || {
            let _gate = gate;
            inner.tidy()
        })
        .await
        .map_err(FetchError::Interrupted)?
        .map_err(io)
    }

    async fn hold(&self, digest: Digest) -> Hold {
        let _gate = self.0.gate.lock().await;
        self.0.holds.take(digest)
    }

    /// A manifest that is here already.
    pub(super) async fn known(&self, digest: Digest) -> Result<Option<Manifest>, FetchError> {
        let path = self.0.dirs.manifest(digest);
        let read = move || {
            let bytes = std::fs::read(path).ok()?;
            let whole = Digest(Sha256::digest(&bytes).into()) == digest;
            whole.then(|| Manifest::decode(&bytes).ok()).flatten()
        };
        blocking(read).await.map_err(FetchError::Interrupted)
    }

    /// Fetches what is missing of a tree whose turn it is.
    async fn complete(
        &self,
        hold: Hold,
        manifest: Manifest,
        owner: Owner,
        told: Told<'_>,
    ) -> Result<Tree, FetchError> {
        let (digest, manifest) = (hold.digest(), Arc::new(manifest));
        let gate = self.0.gate.clone().lock_owned().await;
        let (inner, taken_up) = (self.0.clone(), manifest.clone());
        let missing = blocking(move || {
            let _gate = gate;
            inner.take_up(digest, &taken_up)
        })
        .await
        .map_err(FetchError::Interrupted)??;
        if let Some(missing) = missing {
            let fetched = fetch::all(&self.0, missing, owner, told).await;
            if let Err(error @ FetchError::Full { .. }) = fetched {
                self.give_up(digest).await;
                return Err(error);
            }
            fetched?;
            let dirs = self.0.dirs.clone();
            blocking(move || dirs.seal(digest)).await.map_err(FetchError::Interrupted)??;
        }
        Ok(Tree { digest, manifest, _hold: hold })
    }

    /// The disk is full: what the tree alone had brought goes.
    async fn give_up(&self, digest: Digest) {
        let gate = self.0.gate.clone().lock_owned().await;
        let inner = self.0.clone();
        let given_up = blocking(move || {
            let _gate = gate;
            inner.evict_tree(digest)
        });
        if let Ok(Err(error)) | Err(error) = given_up.await.map(|r| r.map_err(|e| e.to_string())) {
            tracing::warn!("a tree that did not fit cannot be deleted: {error}");
        }
    }
}

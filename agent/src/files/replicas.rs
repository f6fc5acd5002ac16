//! A replica's share: laid out before its tasks start, taken down when it is forgotten.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use convoke_model::{Artifact, DesiredReplica, Generation, ReplicaKey};
use tracing::{info, warn};

use super::cache::{Cancel, FetchError, LayError, Tree, blocking};
use super::laid::{Laid, Means, OwnCopy};
use super::owner::Owner;
use super::plan::{Plan, Source, check_own};
use super::private::{self, Original};
use super::{
    Files, HostMount, collect, disk_was_full, grants, judged, merge, overlay, prior, remove_all, with_source,
};
use crate::ledger;
use crate::work::{Refusal, about};

/// The directory of a replica's secrets and configs.
fn grants_dir(replica: &Path) -> PathBuf {
    replica.join("grants")
}

impl Files {
    /// Makes the sources of a replica's mounts, from nothing.
    pub async fn lay_out(&self, desired: &DesiredReplica) -> Result<Vec<HostMount>, Refusal> {
        let key = desired.key();
        let plan = Plan::of(&desired.spec, &self.node)?;
        check_own(&plan, &self.node)?;
        self.remove(&key).await.map_err(Refusal::for_now)?;
        let made = self.make(desired, plan).await;
        if made.is_err()
            && let Err(problem) = self.remove(&key).await
        {
            warn!(job = %key.job, "{problem}; it is removed with the replica");
        }
        made
    }

    async fn make(&self, desired: &DesiredReplica, plan: Plan) -> Result<Vec<HostMount>, Refusal> {
        let (key, options) = (desired.key(), &desired.spec.container);
        let owner = Owner::of(options.user.as_deref());
        let prior = self.prior(desired, &plan).await?;
        let (mut laid, mut trees, mut paths) = (Laid::default(), Vec::new(), Vec::new());
        // Dropped when this is: then nobody waits for the files any more.
        let cancel = Cancel::default();
        for source in &plan.sources {
            let tree = self.tree(desired, source, owner, &prior).await?;
            let path = if source.writable {
                self.copy(&key, source, &tree, owner, laid.copies.len(), &cancel).await.map(|(copy, path)| {
                    laid.copies.push(copy);
                    path
                })
            } else {
                self.cache.laid(&tree, owner, &cancel).await
            };
            let path = path.map_err(|error| self.not_laid(&key, &source.name, &error))?;
            paths.push(in_mount(path, tree.manifest.is_single_file()));
            laid.trees.push(tree.digest);
            trees.push(tree);
        }
        let replica = self.replica_dir(&key);
        let granted = grants::lay_out(&self.link, options, &grants_dir(&replica), &self.node).await?;
        ledger::write(&Laid::file(&replica), &laid).map_err(|e| Refusal::for_now(with_source(&e)))?;
        // From here on the record keeps them in the cache.
        drop(trees);
        Ok(plan.mounts.into_iter().map(|mount| mount.on_host(&paths)).chain(granted).collect())
    }

    /// What earlier generations brought home, as far as this replica sees any of it.
    async fn prior(&self, desired: &DesiredReplica, plan: &Plan) -> Result<Vec<Artifact>, Refusal> {
        let first = desired.generation <= Generation(1);
        if first || !plan.sources.iter().any(|source| source.writable) {
            return Ok(Vec::new());
        }
        let mut artifacts = prior::artifacts(&self.link, &desired.job).await.map_err(|error| {
            let node = &self.node;
            judged(&error, format!("node {node} cannot learn which files the job has brought back: {error}"))
        })?;
        let home = merge::home_rank(desired);
        artifacts.retain(|artifact| artifact.node_rank == home);
        Ok(artifacts)
    }

    /// What this generation finds at `source`, in the cache.
    async fn tree(
        &self,
        desired: &DesiredReplica,
        source: &Source,
        owner: Owner,
        prior: &[Artifact],
    ) -> Result<Tree, Refusal> {
        let failed = |error| self.not_fetched(&desired.key(), &source.name, &error);
        let base = self.cache.fetch_for(&source.tree, owner).await.map_err(failed)?;
        let back: Vec<&Artifact> =
            prior.iter().filter(|a| source.writable && a.mount == source.name).collect();
        if back.is_empty() {
            return Ok(base);
        }
        info!(job = %desired.job, source = source.name, files = back.len(), "files that came back are laid over it");
        let merged = merge::merge(&base.manifest, back.into_iter());
        self.cache.compose(merged, owner).await.map_err(failed)
    }

    /// A private copy of `tree`, and the path of it.
    async fn copy(
        &self,
        key: &ReplicaKey,
        source: &Source,
        tree: &Tree,
        owner: Owner,
        place: usize,
        cancel: &Cancel,
    ) -> Result<(OwnCopy, PathBuf), LayError> {
        let (replica, manifest) = (self.replica_dir(key), tree.manifest.clone());
        let laid = match self.means {
            Means::Overlay => Some(self.cache.laid(tree, owner, cancel).await?),
            Means::Copy => None,
        };
        let mut copy = OwnCopy {
            source: source.name.clone(),
            tree: tree.digest,
            single_file: manifest.is_single_file(),
            means: self.means,
            place,
        };
        // Until the thread is done: the replica's removal waits for it.
        let turn = self.turns.take(key.clone()).await;
        let (cache, cancelled) = (self.cache.clone(), cancel.token());
        let made = blocking(move || {
            let _turn = turn;
            let original = Original { manifest: &manifest, laid, owner };
            private::make(&mut copy, &replica, &original, &cache, &cancelled)?;
            if copy.means == Means::Copy {
                let begun = collect::begin(&replica, &copy, &manifest);
                begun.map_err(|source| LayError::Io { path: copy.root(&replica), source })?;
            }
            let root = copy.root(&replica);
            Ok((copy, root))
        });
        made.await.map_err(LayError::Interrupted)?
    }

    fn not_fetched(&self, key: &ReplicaKey, source: &str, error: &FetchError) -> Refusal {
        let node = &self.node;
        let message = format!("{source} cannot be brought to node {node}: {error}");
        if matches!(error, FetchError::Full { .. }) {
            return self.disk_full(key, message);
        }
        judged(error, message)
    }

    fn not_laid(&self, key: &ReplicaKey, source: &str, error: &LayError) -> Refusal {
        let message = format!("{source} cannot be laid out on node {}: {error}", self.node);
        if disk_was_full(error) { self.disk_full(key, message) } else { Refusal::for_now(message) }
    }

    /// Until the replica is removed, which is when the coordinator has taken it elsewhere.
    fn disk_full(&self, key: &ReplicaKey, message: String) -> Refusal {
        let message = format!("{message}; make room there, or choose a smaller --file-cache-size");
        self.conditions.raise("DiskFull", &about(key), message.clone());
        Refusal::for_now(message)
    }

    /// Takes down everything of a replica; nothing there is fine.
    pub async fn remove(&self, key: &ReplicaKey) -> Result<(), String> {
        let turn = self.turns.take(key.clone()).await;
        let replica = self.replica_dir(key);
        let removed = blocking(move || {
            let _turn = turn;
            take_down(&replica).map_err(|e| format!("what is laid out in {} stays: {e}", replica.display()))
        });
        removed.await?
    }

    /// Takes down what belongs to a replica that has no record, and is not one of `known`. Blocking;
    /// for the start.
    pub fn sweep(&self, known: &BTreeSet<ReplicaKey>) {
        let known: BTreeSet<PathBuf> = known.iter().map(|key| self.replica_dir(key)).collect();
        let entries = fs::read_dir(self.home.replicas_dir()).into_iter().flatten().flatten();
        for replica in entries.map(|entry| entry.path()) {
            if known.contains(&replica) || replica.join(ledger::RECORD).exists() {
                continue;
            }
            match take_down(&replica).and_then(|()| remove_all(&replica)) {
                Ok(()) => info!("what a replica left at {} is removed", replica.display()),
                Err(error) => warn!("what a replica left at {} stays: {error}", replica.display()),
            }
        }
    }
}

/// Mounts first: deleting through one would be another deed.
fn take_down(replica: &Path) -> io::Result<()> {
    overlay::unmount_below(replica)?;
    remove_all(&Laid::mounts(replica))?;
    remove_all(&grants_dir(replica))?;
    collect::forget(replica)?;
    remove_all(&Laid::file(replica))
}

fn in_mount(root: PathBuf, single_file: bool) -> PathBuf {
    if single_file { root.join(super::cache::SINGLE) } else { root }
}

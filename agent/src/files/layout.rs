//! Laying out one replica's mounts, from nothing.

use std::path::PathBuf;
use std::time::Duration;

use convoke_model::{Artifact, DesiredReplica, Generation, Progress, ReplicaKey};
use tracing::info;

use super::before::{self, Before};
use super::cache::{FetchError, LayError, SINGLE, Supervisor, Tree};
use super::laid::{Laid, Means, OwnCopy};
use super::owner::Owner;
use super::plan::{Origin, Plan, Source};
use super::private::{self, Original};
use super::{Files, HostMount, collect, disk_was_full, grants, judged, merge, prior, with_source};
use crate::blocking::blocking;
use crate::ledger;
use crate::progress::Step;
use crate::work::{Refusal, about};

/// How often progress is told: each time is a commit of the coordinator's.
const PROGRESS: Duration = Duration::from_secs(2);

/// One replica's layout under way. Dropped, it ends what its threads do.
pub(super) struct Layout<'a> {
    files: &'a Files,
    desired: &'a DesiredReplica,
    key: ReplicaKey,
    /// Whom the tasks run as.
    user: &'a str,
    owner: Owner,
    /// What earlier generations brought home, as far as this replica sees any of it.
    prior: Vec<Artifact>,
    /// What the jobs before it left.
    before: Vec<Before>,
    step: Step,
}

impl<'a> Layout<'a> {
    pub(super) fn new(files: &'a Files, desired: &'a DesiredReplica, image_user: &'a str) -> Self {
        let (key, user) = (desired.key(), desired.spec.container.user.as_deref().unwrap_or(image_user));
        let (owner, step) = (Owner::of(user), files.progresses.begin(&key));
        Self { files, desired, user, owner, prior: Vec::new(), before: Vec::new(), step, key }
    }

    /// Makes the sources of every mount.
    pub(super) async fn make(mut self, plan: Plan) -> Result<Vec<HostMount>, Refusal> {
        if self.desired.generation > Generation(1) && plan.sources.iter().any(|source| source.writable) {
            self.prior = self.brought_home().await?;
        }
        if !plan.sources.is_empty() {
            self.before = self.left_before().await?;
        }
        self.warn_of_other_owners(&plan);
        let mut trees = Vec::new();
        for source in &plan.sources {
            trees.push(self.tree(source).await.map_err(|error| self.not_fetched(&source.name, &error))?);
        }
        self.make_points(&plan, &mut trees).await?;
        let (mut laid, mut paths) = (Laid::default(), Vec::new());
        for (source, tree) in plan.sources.iter().zip(&trees) {
            let shown = self.show(source, tree, &mut laid).await;
            let path = shown.map_err(|error| self.not_laid(&source.name, &error))?;
            paths.push(if tree.manifest.is_single_file() { path.join(SINGLE) } else { path });
            laid.trees.push(tree.digest);
        }
        let replica = self.files.replica_dir(&self.key);
        let options = &self.desired.spec.container;
        let granted =
            grants::lay_out(&self.files.link, options, &grants::directory(&replica), &self.files.node)
                .await?;
        ledger::write(&Laid::file(&replica), &laid).map_err(|e| Refusal::for_now(with_source(&e)))?;
        // From here on the record keeps them in the cache.
        drop(trees);
        Ok(plan.mounts.into_iter().map(|mount| mount.on_host(&paths)).chain(granted).collect())
    }

    async fn brought_home(&self) -> Result<Vec<Artifact>, Refusal> {
        let asked = prior::artifacts(&self.files.link, &self.key.job).await;
        let mut artifacts = asked.map_err(|error| {
            let node = &self.files.node;
            judged(&error, format!("node {node} cannot learn which files the job has brought back: {error}"))
        })?;
        let home = merge::home_rank(self.desired);
        artifacts.retain(|artifact| artifact.node_rank == home);
        Ok(artifacts)
    }

    async fn left_before(&self) -> Result<Vec<Before>, Refusal> {
        let found = before::all(&self.files.link, &self.files.cache, &self.desired.predecessors).await;
        found.map_err(|error| {
            let node = &self.files.node;
            judged(&error, format!("node {node} cannot learn which files the jobs before it left: {error}"))
        })
    }

    /// What this generation finds at `source`, in the cache.
    async fn tree(&self, source: &Source) -> Result<Tree, FetchError> {
        let told = |done, total| self.tell(format!("fetches {}", source.name), done, total);
        let cache = &self.files.cache;
        let base = cache.fetch_for(&source.tree, self.owner, &told).await?;
        let left = self.before.iter().flat_map(|before| before.left(&source.root, &base.manifest));
        let left: Vec<Artifact> = left.collect();
        let is_its = |artifact: &&Artifact| source.writable && artifact.mount == source.name;
        let back: Vec<&Artifact> = left.iter().chain(self.prior.iter().filter(is_its)).collect();
        if back.is_empty() {
            return Ok(base);
        }
        let (job, source) = (&self.key.job, &source.name);
        info!(%job, source, files = back.len(), "files that came back are laid over it");
        let merged = merge::merge(&base.manifest, back.into_iter());
        cache.compose(merged, self.owner, &told).await
    }

    /// Gives read-only trees the directories that other mounts need in them, where the submitter left them
    /// out.
    async fn make_points(&self, plan: &Plan, trees: &mut [Tree]) -> Result<(), Refusal> {
        for (n, source) in plan.sources.iter().enumerate().filter(|(_, source)| !source.writable) {
            let points = plan.points(n, |origin| match origin {
                Origin::Source(n) => !trees[*n].manifest.is_single_file(),
                Origin::Own(path) => path.is_dir(),
                Origin::Shared(_) | Origin::Volume(_) | Origin::AnonymousVolume => true,
            });
            if let Some(with_points) = merge::with_points(&trees[n].manifest, &points) {
                let composed = self.files.cache.compose(with_points, self.owner, &|_, _| {}).await;
                trees[n] = composed.map_err(|error| self.not_fetched(&source.name, &error))?;
            }
        }
        Ok(())
    }

    /// Lays the tree out, and tells how far that is. Returns the directory to mount.
    async fn show(&self, source: &Source, tree: &Tree, laid: &mut Laid) -> Result<PathBuf, LayError> {
        let supervisor = Supervisor::default();
        let showing = async {
            if source.writable {
                let copy = self.copy(source, tree, laid.copies.len(), &supervisor).await?;
                let root = copy.root(&self.files.replica_dir(&self.key));
                laid.copies.push(copy);
                Ok(root)
            } else {
                self.files.cache.laid(tree, self.owner, &supervisor).await
            }
        };
        let mut showing = std::pin::pin!(showing);
        let total = tree.manifest.blobs().map(|(_, size)| size).sum();
        let mut interval = tokio::time::interval(PROGRESS);
        interval.tick().await;
        loop {
            tokio::select! {
                shown = &mut showing => return shown,
                _ = interval.tick() => self.tell(format!("lays out {}", source.name), supervisor.done(), total),
            }
        }
    }

    /// A private copy of `tree`.
    async fn copy(
        &self,
        source: &Source,
        tree: &Tree,
        place: usize,
        supervisor: &Supervisor,
    ) -> Result<OwnCopy, LayError> {
        let means = self.files.means;
        let (manifest, owner) = (tree.manifest.clone(), self.owner);
        let laid = match means {
            Means::Overlay => Some(self.files.cache.laid(tree, owner, supervisor).await?),
            Means::Copy => None,
        };
        let single_file = manifest.is_single_file();
        let mut copy = OwnCopy { source: source.name.clone(), tree: tree.digest, single_file, means, place };
        // Until the thread is done: the replica's removal waits for it.
        let turn = self.files.turns.take(self.key.clone()).await;
        let replica = self.files.replica_dir(&self.key);
        let (cache, worker) = (self.files.cache.clone(), supervisor.worker());
        let made = blocking(move || {
            let _turn = turn;
            private::make(
                &mut copy,
                &replica,
                &Original { manifest: &manifest, laid, owner },
                &cache,
                &worker,
            )?;
            if copy.means == Means::Copy {
                let begun = collect::begin(&replica, &copy, &manifest);
                begun.map_err(|source| LayError::Io { path: copy.root(&replica), source })?;
            }
            Ok(copy)
        });
        made.await.map_err(LayError::Interrupted)?
    }

    /// A job that cannot write to its own directory fails late, and for a reason that is not its own.
    fn warn_of_other_owners(&self, plan: &Plan) {
        let Some(source) = plan.sources.iter().find(|source| source.writable) else { return };
        if let Some(problem) = self.owner.unlike(self.user) {
            let message = format!("it may not be able to write to {}: {problem}", source.name);
            self.files.warnings.raise("FilesOfAnotherUser", &about(&self.key), message);
        }
    }

    fn tell(&self, what: String, done: u64, total: u64) {
        self.step.tell(Progress { what, done, total });
    }

    fn not_fetched(&self, source: &str, error: &FetchError) -> Refusal {
        let message = format!("{source} cannot be brought to node {}: {error}", self.files.node);
        if matches!(error, FetchError::Full { .. }) {
            self.disk_full(message)
        } else {
            judged(error, message)
        }
    }

    fn not_laid(&self, source: &str, error: &LayError) -> Refusal {
        let message = format!("{source} cannot be laid out on node {}: {error}", self.files.node);
        if disk_was_full(error) { self.disk_full(message) } else { Refusal::for_now(message) }
    }

    /// Until the replica is removed, which is when the coordinator has taken it elsewhere.
    fn disk_full(&self, message: String) -> Refusal {
        let message = format!("{message}; make room there, or give the agent a smaller --file-cache-size");
        self.files.conditions.raise("DiskFull", &about(&self.key), message.clone());
        Refusal::for_now(message)
    }
}

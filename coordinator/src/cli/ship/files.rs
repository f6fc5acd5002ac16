//! The submitter's files: scanned, what the coordinator lacks sent, and named in the specs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use convoke_model::{Digest, JobSpec};
use convoke_tree::Manifest;
use convoke_tree::scan::DigestCache;
use serde_json::json as object;

use super::blob::Tree;
use super::shared::{self, Mounted};
use super::sources::{self, Wanted};
use super::tally::Tally;
use super::upload::{UploadError, missing};
use super::{Shipping, scan};
use crate::cli::cache::Shelf;
use crate::cli::failure::{Failure, exit};
use crate::cli::text;

/// What the submitter's mounts held when they were shipped, of one job, by their source.
pub(crate) type Sent = BTreeMap<String, Arc<Manifest>>;

/// What was scanned, by its path.
type Trees = BTreeMap<PathBuf, Tree>;

/// What the jobs name, as it was when it was looked at.
pub(super) struct Looked {
    wanted: Vec<Wanted>,
    trees: Trees,
    cache: DigestCache,
}

impl Shipping<'_> {
    /// Reads what the jobs name, and refuses what cannot travel; makes directories that are not there. Those
    /// that the nodes share are written into the specs, and need not travel.
    pub(super) async fn look(&self, jobs: &mut [JobSpec]) -> Result<Looked, Failure> {
        let mut wanted = sources::wanted(jobs);
        for missing in wanted.iter().filter(|w| w.is_missing_directory()) {
            missing.make_directory()?;
            self.screen.note(&format!("{} was not there: made, empty", missing.shown));
        }
        for (shown, writable) in self.mount_shared(jobs, &mut wanted, false).await? {
            let sentence = shared::sentence(&shown, writable, "mounted");
            self.screen.tell("mounted", &object!({ "mount": shown }), &sentence);
        }
        if wanted.is_empty() {
            return Ok(Looked { wanted, trees: Trees::new(), cache: DigestCache::default() });
        }
        let mut cache = self.cache(jobs);
        let trees = self.scan(&wanted, &mut cache).await?;
        Ok(Looked { wanted, trees, cache })
    }

    /// Sends what was looked at and fills it into the specs; `None` where there is nothing.
    pub(super) async fn files(
        &self,
        jobs: &mut [JobSpec],
        looked: Looked,
    ) -> Result<(Vec<Sent>, Option<Tally>), Failure> {
        let mut sent = vec![Sent::new(); jobs.len()];
        if looked.wanted.is_empty() {
            return Ok((sent, None));
        }
        let (looked, tally) = self.send_all(looked).await?;
        for one in &looked.wanted {
            if let Some(tree) = looked.trees.get(&one.path) {
                one.fill(jobs, &tree.reference);
                sent[one.job].insert(one.shown.clone(), tree.manifest.clone());
            }
        }
        Ok((sent, Some(tally)))
    }

    /// Sends; once more from the start if files changed in between.
    async fn send_all(&self, mut looked: Looked) -> Result<(Looked, Tally), Failure> {
        let mut again = true;
        loop {
            let all = || looked.trees.values();
            let lacking = missing(self.link, all().flat_map(Tree::digests)).await?;
            let tally = Tally::of(all(), &lacking);
            match self.send("shipping", all(), &lacking).await {
                Ok(()) => return Ok((looked, tally)),
                Err(UploadError::Changed(paths)) if again => {
                    paths.iter().for_each(|path| looked.cache.forget(path));
                    looked.trees = self.scan(&looked.wanted, &mut looked.cache).await?;
                    again = false;
                }
                Err(UploadError::Changed(paths)) => return Err(scan::changed(&paths)),
                Err(UploadError::Failed(failure)) => return Err(failure),
            }
        }
    }

    /// What would be mounted and shipped; sends nothing, and leaves nothing behind.
    pub(super) async fn preview(&self, jobs: &[JobSpec]) -> Result<(Mounted, Option<Tally>), Failure> {
        let mut wanted = sources::wanted(jobs);
        let travels = !wanted.is_empty();
        wanted.retain(|one| {
            let missing = one.is_missing_directory();
            if missing {
                self.screen.note(&format!("{} is not there: it would be made, empty", one.shown));
            }
            !missing
        });
        let mounted = self.mount_shared(&mut jobs.to_vec(), &mut wanted, true).await?;
        if wanted.is_empty() && (!travels || !mounted.is_empty()) {
            return Ok((mounted, None));
        }
        let trees = self.scan(&wanted, &mut self.cache(jobs)).await?;
        let lacking = missing(self.link, trees.values().flat_map(Tree::digests)).await?;
        Ok((mounted, Some(Tally::of(trees.values(), &lacking))))
    }

    fn cache(&self, jobs: &[JobSpec]) -> DigestCache {
        let project = jobs.first().map(|job| Path::new(&job.project_dir));
        match (Shelf::Digests.make(), project) {
            (Some(dir), Some(project)) => DigestCache::open(&dir, project),
            _ => DigestCache::default(),
        }
    }

    /// Scans all; what was read before a refusal is remembered too.
    async fn scan(&self, wanted: &[Wanted], cache: &mut DigestCache) -> Result<Trees, Failure> {
        let trees = self.scan_each(wanted, cache).await;
        if let Err(error) = cache.save() {
            self.screen.note(&format!("note: what was read is not remembered for the next time: {error}"));
        }
        let trees = trees?;
        self.check_limit(wanted, &trees)?;
        Ok(trees)
    }

    /// Each place once, whoever names it.
    async fn scan_each(&self, wanted: &[Wanted], cache: &mut DigestCache) -> Result<Trees, Failure> {
        let mut trees = Trees::new();
        for one in wanted {
            if !trees.contains_key(&one.path) {
                let (project, limit) = (Path::new(&one.project), self.args.limit());
                let tree = scan::tree(self.screen, project, &one.path, &one.shown, limit, cache).await?;
                trees.insert(one.path.clone(), tree);
            }
        }
        Ok(trees)
    }

    /// The limit is for all that one job names.
    fn check_limit(&self, wanted: &[Wanted], trees: &Trees) -> Result<(), Failure> {
        let jobs: BTreeSet<_> = wanted.iter().map(|one| one.job).collect();
        for job in jobs {
            let mut parts: Vec<_> = wanted
                .iter()
                .filter(|one| one.job == job)
                .filter_map(|one| Some((trees.get(&one.path)?.reference.bytes, &one.shown)))
                .collect();
            let bytes: u64 = parts.iter().map(|(bytes, _)| bytes).sum();
            if bytes > self.args.limit() {
                parts.sort_by(|a, b| b.cmp(a));
                let parts: Vec<_> =
                    parts.iter().map(|(bytes, shown)| format!("{shown} {}", text::size(*bytes))).collect();
                let message = scan::too_large(
                    "what the job mounts",
                    bytes,
                    self.args.limit(),
                    &format!(" ({})", parts.join(", ")),
                );
                return Err(Failure::new(exit::FAILED, "TOO_LARGE", message).hint(scan::TOO_LARGE_ADVICE));
            }
        }
        Ok(())
    }

    /// Sends what is lacking of some trees.
    pub(super) async fn send<'t>(
        &self,
        verb: &str,
        trees: impl Iterator<Item = &'t Tree>,
        lacking: &BTreeSet<Digest>,
    ) -> Result<(), UploadError> {
        let mut blobs = BTreeMap::new();
        for tree in trees {
            blobs.extend(tree.blobs(|digest| lacking.contains(digest)));
        }
        let blobs: Vec<_> = blobs.into_values().collect();
        let bytes = blobs.iter().map(|blob| blob.size).sum();
        let bar = self.screen.bar(super::bar(verb, bytes));
        let result = super::upload::upload(self.link, blobs, &bar).await;
        bar.finish_and_clear();
        result
    }
}

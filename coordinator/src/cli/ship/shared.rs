//! Directories that the nodes see by themselves: mounted where they are, and nothing of them is shipped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use convoke_model::JobSpec;
use convoke_proto::v1;

use super::Shipping;
use super::marked::{Marked, shared_kind};
use super::sources::Wanted;
use crate::cli::failure::{Failure, exit};

/// Nodes told by name at a time.
const NAMED: usize = 3;

/// What becomes of the directories that containers mount by relative paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Travel {
    /// Mounted where they are on a network file system that the nodes see too; else shipped
    Auto,
    /// Shipped; no node is asked
    Ship,
    /// Mounted where they are, on whatever file system; an error where a node does not see them
    Shared,
}

/// Directories that are mounted where they are, by their names in the job file, and whether a job may write to
/// them.
pub(super) type Mounted = BTreeMap<String, bool>;

/// The marked directories, by their paths as jobs have them.
type Marks = BTreeMap<PathBuf, Marked>;

/// Why a directory is not the same on each node, by its path.
type Unseen = BTreeMap<PathBuf, String>;

impl Shipping<'_> {
    /// Takes out of `wanted` what the nodes see, and writes that into the specs. Markers stay there, unless
    /// this is but a look.
    pub(super) async fn mount_shared(
        &self,
        jobs: &mut [JobSpec],
        wanted: &mut Vec<Wanted>,
        look: bool,
    ) -> Result<Mounted, Failure> {
        wanted.iter().for_each(|one| one.mount_shared(jobs, None));
        let mut marks = self.mark(wanted).await?;
        let all = jobs.iter().enumerate().map(|(number, job)| {
            let its = wanted.iter().filter(|one| one.job == number && one.is_mount());
            let marked = its.filter_map(|one| marks.get_key_value(&one.path)).collect();
            self.unseen(job, marked)
        });
        let unseen = futures::future::try_join_all(all).await?;
        let mut told = BTreeSet::new();
        let mut mounted = Mounted::new();
        let mut rest = Vec::new();
        for one in std::mem::take(wanted) {
            match (marks.get_mut(&one.path).filter(|_| one.is_mount()), unseen[one.job].get(&one.path)) {
                (Some(marked), None) => {
                    one.mount_shared(jobs, Some(&marked.lasting));
                    *mounted.entry(one.shown).or_default() |= !one.read_only;
                    marked.is_used = !look;
                }
                (Some(_), Some(why)) => {
                    if told.insert(one.path.clone()) {
                        self.not_mounted(&one, why)?;
                    }
                    rest.push(one);
                }
                (None, _) => rest.push(one),
            }
        }
        *wanted = rest;
        // Removes the markers that are of no use.
        drop(tokio::task::spawn_blocking(move || drop(marks)).await);
        Ok(mounted)
    }

    /// Marks the directories that may be shared.
    async fn mark(&self, wanted: &[Wanted]) -> Result<Marks, Failure> {
        let (mut marks, mut seen) = (Marks::new(), BTreeSet::new());
        let mode = self.args.files;
        for one in wanted.iter().filter(|one| one.is_mount() && mode != Travel::Ship) {
            let path = one.path.clone();
            if !seen.insert(path.clone()) {
                continue;
            }
            let marking = tokio::task::spawn_blocking(move || mark(&path, mode));
            match marking.await.map_err(|e| Failure::new(exit::FAILED, "CRASHED", e.to_string()))? {
                Ok(Some(marked)) => drop(marks.insert(one.path.clone(), marked)),
                Ok(None) => {}
                Err(why) => self.not_mounted(one, &why)?,
            }
        }
        Ok(marks)
    }

    /// Asks which of the marked directories are not the same on each node that the job may get.
    async fn unseen(&self, job: &JobSpec, marked: BTreeMap<&PathBuf, &Marked>) -> Result<Unseen, Failure> {
        if marked.is_empty() {
            return Ok(Unseen::new());
        }
        let markers = marked.values().map(|marked| marked.asked.clone().into()).collect();
        let request = v1::FindSharedDirectoriesRequest { spec: Some(job.clone().into()), markers };
        let asked =
            |mut c: crate::cli::link::Clients, r| async move { c.files.find_shared_directories(r).await };
        let nodes = match self.link.call(request, asked).await {
            Ok(answer) => answer.nodes,
            Err(failure) if failure.reason == "UNIMPLEMENTED" && self.args.files == Travel::Auto => {
                let why = "the coordinator is older than this question".to_owned();
                return Ok(marked.into_keys().map(|path| (path.clone(), why.clone())).collect());
            }
            Err(failure) => return Err(failure),
        };
        let judged = marked.into_keys().enumerate().map(|(n, path)| (path.clone(), differs(&nodes, n)));
        Ok(judged.filter_map(|(path, why)| Some((path, why?))).collect())
    }

    /// Says why a directory is shipped after all; an error where it must not be.
    fn not_mounted(&self, one: &Wanted, why: &str) -> Result<(), Failure> {
        if self.args.files != Travel::Shared {
            self.screen.note(&format!("note: {} is shipped, though hosts may share it: {why}", one.shown));
            return Ok(());
        }
        let message = format!("{} ({}) cannot be mounted where it is: {why}", one.shown, one.path.display());
        Err(Failure::new(exit::FAILED, "NOT_SHARED", message).hint(
            "mount its file system at the same path on every node that the job may get, keep the job from the \
             others with deploy.placement.constraints, or ship it: --files auto",
        ))
    }
}

/// Marks a directory, if that makes sense.
fn mark(path: &Path, mode: Travel) -> Result<Option<Marked>, String> {
    // A single file is shipped, whatever it lies on.
    if !path.is_dir() {
        return Ok(None);
    }
    let kind = shared_kind(path).map_err(|e| e.to_string())?;
    if mode == Travel::Auto && kind.is_none() {
        return Ok(None);
    }
    Marked::new(path).map(Some)
}

/// Which nodes do not see what was asked about as number `n`; `None` if all do.
fn differs(nodes: &[v1::NodeSights], n: usize) -> Option<String> {
    if nodes.is_empty() {
        return Some("there is no node yet that could run the job, and be asked".to_owned());
    }
    let seen =
        |node: &v1::NodeSights| node.sights.get(n).and_then(|sight| v1::MarkerSight::try_from(*sight).ok());
    let (mut others, mut silent) = (Vec::new(), Vec::new());
    for node in nodes {
        match seen(node) {
            Some(v1::MarkerSight::Seen) => {}
            Some(v1::MarkerSight::Other) => others.push(node.node.as_str()),
            Some(v1::MarkerSight::Unspecified) | None => silent.push(node.node.as_str()),
        }
    }
    let mut why = Vec::new();
    if !others.is_empty() {
        why.push(format!("{} cannot see it at that path", named(&others)));
    }
    if !silent.is_empty() {
        why.push(format!("{} did not answer", named(&silent)));
    }
    (!why.is_empty()).then(|| why.join(", "))
}

fn named(nodes: &[&str]) -> String {
    match nodes.len().saturating_sub(NAMED) {
        0 => nodes.join(", "),
        more => format!("{} and {more} more", nodes[..NAMED].join(", ")),
    }
}

/// `./data is on a file system that the nodes share: mounted, not shipped`.
pub(super) fn sentence(shown: &str, writable: bool, verb: &str) -> String {
    let back = if writable { "; what a job writes there is there at once" } else { "" };
    format!("{shown} is on a file system that the nodes share: {verb}, not shipped{back}")
}

#[cfg(test)]
mod tests {
    use v1::MarkerSight::{Other, Seen, Unspecified};

    use super::*;

    fn node(name: &str, sights: &[v1::MarkerSight]) -> v1::NodeSights {
        v1::NodeSights { node: name.to_owned(), sights: sights.iter().map(|s| (*s).into()).collect() }
    }

    #[test]
    fn only_what_every_node_sees_is_the_same_on_all() {
        let nodes = [node("a", &[Seen, Seen, Seen]), node("b", &[Seen, Other, Unspecified])];
        assert_eq!(differs(&nodes, 0), None);
        assert_eq!(differs(&nodes, 1).unwrap(), "b cannot see it at that path");
        assert_eq!(differs(&nodes, 2).unwrap(), "b did not answer");
        assert!(differs(&[], 0).unwrap().contains("no node yet"));
    }

    #[test]
    fn nodes_that_do_not_answer_are_told_from_those_that_see_something_else() {
        let nodes: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| node(name, &[Other])).into();
        assert_eq!(differs(&nodes, 0).unwrap(), "a, b, c and 2 more cannot see it at that path");
        let nodes = [node("a", &[Other]), node("old", &[])];
        assert_eq!(differs(&nodes, 0).unwrap(), "a cannot see it at that path, old did not answer");
    }

    #[test]
    fn a_local_directory_is_marked_only_where_that_is_asked_for() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        assert!(mark(dir.path(), Travel::Auto).unwrap().is_none());
        assert!(mark(dir.path(), Travel::Shared).unwrap().is_some());
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(mark(&file, Travel::Shared).unwrap().is_none(), "files are shipped");
    }

    #[test]
    fn a_mounted_directory_is_told_in_a_sentence() {
        let told = sentence("./data", false, "mounted");
        assert_eq!(told, "./data is on a file system that the nodes share: mounted, not shipped");
        assert!(sentence("./out", true, "mounted").ends_with("what a job writes there is there at once"));
    }
}

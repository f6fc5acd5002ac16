//! What the jobs that this one waited for brought home, as files of its own mounts: the submitter's directories
//! are the same ones, whichever job they are mounted in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use convoke_model::{Artifact, Collect, Mount, Predecessor};
use convoke_tree::{Kind, Manifest};

use super::cache::{Cache, FetchError};
use super::prior;
use crate::link::Link;

/// One of them.
#[derive(Debug)]
pub(super) struct Before {
    predecessor: Predecessor,
    /// In the order in which they came.
    artifacts: Vec<Artifact>,
    /// What its mounts held when it was submitted, by their sources; where that counts.
    trees: BTreeMap<String, Manifest>,
}

/// Where an artifact is for the submitter.
struct At {
    path: PathBuf,
    /// What its mount would call it.
    entry: String,
}

/// What each of the jobs left, one after those that it waited for.
pub(super) async fn all(
    link: &Link,
    cache: &Cache,
    predecessors: &[Predecessor],
) -> Result<Vec<Before>, FetchError> {
    let mut all = Vec::new();
    for predecessor in predecessors {
        let artifacts = prior::artifacts(link, &predecessor.job).await?;
        let mut trees = BTreeMap::new();
        let came = |mount: &&Mount| artifacts.iter().any(|artifact| artifact.mount == mount.source);
        for mount in predecessor.volumes.iter().filter(came).filter(|_| predecessor.ended_before) {
            if let Some(content) = &mount.content {
                trees.insert(mount.source.clone(), cache.manifest(content).await?);
            }
        }
        all.push(Before { predecessor: predecessor.clone(), artifacts, trees });
    }
    Ok(all)
}

impl Before {
    /// Its files below `root`, which held `submitted` when this job was submitted, under their paths there.
    pub(super) fn left<'a>(
        &'a self,
        root: &'a Path,
        submitted: &'a Manifest,
    ) -> impl Iterator<Item = Artifact> + 'a {
        self.artifacts.iter().filter_map(move |artifact| {
            let at = self.at(artifact)?;
            let path = at.path.strip_prefix(root).ok()?.to_str()?.to_owned();
            let changed = || {
                let was = self.trees.get(&artifact.mount).and_then(|tree| content(tree, &at.entry));
                was != content(submitted, &path)
            };
            // What the submitter changed since that job's end is newer.
            let outdated = self.predecessor.ended_before && changed();
            (!outdated).then(|| Artifact { path, ..artifact.clone() })
        })
    }

    /// Where the submitter gets it: ranks that each bring their own home have directories of their own.
    fn at(&self, artifact: &Artifact) -> Option<At> {
        let Predecessor { project_dir, collect, volumes, .. } = &self.predecessor;
        let mount = volumes.iter().find(|mount| mount.source == artifact.mount)?.submitted(project_dir)?;
        let rank = artifact.node_rank.0;
        let own = (*collect == Collect::All || rank != 0).then(|| format!("node-{rank}"));
        let (root, name) = match artifact.path.as_str() {
            "" => (mount.parent()?, mount.file_name()?.to_str()?),
            path => (mount.as_path(), path),
        };
        let below = |name: &str| own.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join("/");
        let entry = if own.is_none() { artifact.path.clone() } else { below(&artifact.path) };
        Some(At { path: root.join(below(name)), entry })
    }
}

/// What a tree has at a path.
fn content<'a>(tree: &'a Manifest, path: &str) -> Option<&'a Kind> {
    let found = tree.entries.binary_search_by(|entry| entry.path.split('/').cmp(path.split('/')));
    found.ok().map(|at| &tree.entries[at].kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_model::{Digest, Generation, JobId, MountKind, NodeId, NodeRank, Timestamp, TreeRef};
    use convoke_tree::Entry;

    fn artifact(mount: &str, path: &str, rank: u32, content: u8) -> Artifact {
        Artifact {
            generation: Generation(1),
            node: NodeId::new("n").unwrap(),
            node_rank: NodeRank(rank),
            mount: mount.to_owned(),
            path: path.to_owned(),
            size: 1,
            digest: Digest([content; 32]),
            mode: 0o644,
            modified: Timestamp(0),
        }
    }

    fn tree(files: &[(&str, u8)]) -> Manifest {
        let file = |(path, n): &(&str, u8)| {
            let kind = Kind::File { size: 1, digest: Digest([*n; 32]) };
            Entry { path: (*path).to_owned(), mode: 0o644, kind }
        };
        Manifest { entries: files.iter().map(file).collect() }
    }

    /// A job that mounted `sources`, of which it brought `artifacts` home.
    fn before(sources: &[&str], artifacts: Vec<Artifact>) -> Before {
        let mount = |source: &&str| Mount {
            kind: MountKind::Bind,
            source: (*source).to_owned(),
            target: "/x".to_owned(),
            read_only: false,
            content: Some(TreeRef { digest: Digest([0; 32]), files: 0, bytes: 0 }),
            shared: None,
        };
        let predecessor = Predecessor {
            job: JobId::new("prep").unwrap(),
            project_dir: "/home/me/job".to_owned(),
            collect: Collect::NodeRankZero,
            volumes: sources.iter().map(mount).collect(),
            ended_before: false,
        };
        Before { predecessor, artifacts, trees: BTreeMap::new() }
    }

    fn left(before: &Before, root: &str, submitted: &Manifest) -> Vec<String> {
        let left = before.left(Path::new(root), submitted);
        left.map(|artifact| format!("{}={}", artifact.path, artifact.digest.0[0])).collect()
    }

    #[test]
    fn a_file_is_found_by_its_place_at_the_submitter_whatever_the_mount() {
        let came = vec![artifact("./data", "a/x", 0, 1), artifact("../else", "y", 0, 2)];
        let job = before(&["./data", "../else"], came);
        let none = tree(&[]);
        assert_eq!(left(&job, "/home/me/job/data", &none), ["a/x=1"]);
        assert_eq!(left(&job, "/home/me/job", &none), ["data/a/x=1"]);
        assert_eq!(left(&job, "/home/me/job/data/a", &none), ["x=1"]);
        assert_eq!(left(&job, "/home/me/else", &none), ["y=2"]);
        assert_eq!(left(&job, "/home/me/job/dat", &none), Vec::<String>::new());
    }

    #[test]
    fn a_single_file_and_the_files_of_each_rank_are_where_they_come_back_to() {
        let came = vec![artifact("./conf.yml", "", 0, 1), artifact("./data", "x", 2, 2)];
        let mut job = before(&["./conf.yml", "./data"], came);
        let none = tree(&[]);
        assert_eq!(left(&job, "/home/me/job", &none), ["conf.yml=1", "data/node-2/x=2"]);
        assert_eq!(left(&job, "/home/me/job/conf.yml", &none), ["=1"]);
        job.predecessor.collect = Collect::All;
        assert_eq!(left(&job, "/home/me/job", &none), ["node-0/conf.yml=1", "data/node-2/x=2"]);
    }

    #[test]
    fn what_the_submitter_changed_since_the_end_of_that_job_stays_as_it_is() {
        let came = ["same", "edited", "made", "new", "deleted"].map(|path| artifact("./data", path, 0, 9));
        let mut job = before(&["./data"], came.to_vec());
        let was = tree(&[("deleted", 1), ("edited", 1), ("same", 1)]);
        let now = tree(&[("edited", 2), ("made", 2), ("same", 1)]);
        assert_eq!(left(&job, "/home/me/job/data", &now).len(), 5, "it was still running");
        job.predecessor.ended_before = true;
        job.trees.insert("./data".to_owned(), was);
        assert_eq!(left(&job, "/home/me/job/data", &now), ["same=9", "new=9"]);
    }
}

//! What a generation starts from: the submitter's files, and over them what the job brought home so
//! far.

use std::collections::BTreeMap;

use convoke_model::{Artifact, Collect, DesiredReplica, NodeRank};
use convoke_tree::{Entry, Kind, Manifest};

/// Of directories that a job made: a file that comes back says nothing of them.
const MADE_DIR: u32 = 0o755;

/// Whose files a replica gets back: those of the rank that they are collected from.
pub(super) fn home_rank(desired: &DesiredReplica) -> NodeRank {
    match desired.spec.collect {
        Collect::NodeRankZero => NodeRank(0),
        Collect::All => desired.placement.node_rank,
    }
}

/// The tree `base` with `artifacts` over it, in the order in which they came: a later one wins against
/// whatever has its name, or has a parent's name and is no directory.
pub(super) fn merge<'a>(base: &Manifest, artifacts: impl Iterator<Item = &'a Artifact>) -> Manifest {
    let mut entries = Entries::of(base);
    for artifact in artifacts {
        // A file does not become a directory, nor the other way round: the mount is what it is.
        if artifact.path.is_empty() == base.is_single_file() {
            entries.put(artifact);
        }
    }
    entries.into_manifest()
}

/// The tree with a directory at each of `points`; `None` if it has them all, or has something else there.
pub(super) fn with_points(tree: &Manifest, points: &[String]) -> Option<Manifest> {
    let mut entries = Entries::of(tree);
    let before = entries.0.len();
    for point in points.iter().filter(|_| !tree.is_single_file()) {
        let dirs = point.match_indices('/').map(|(at, _)| &point[..at]).chain([point.as_str()]);
        for dir in dirs.take_while(|dir| entries.may_be_dir(dir)).collect::<Vec<_>>() {
            entries.make_dir(dir);
        }
    }
    (entries.0.len() > before).then(|| entries.into_manifest())
}

/// Entries in the order of manifests. A path's key has NUL, which no path has and which comes before
/// everything, in place of its separators: so what is in a directory follows it.
struct Entries(BTreeMap<String, Entry>);

fn key(path: &str) -> String {
    path.replace('/', "\0")
}

impl Entries {
    fn of(manifest: &Manifest) -> Self {
        Self(manifest.entries.iter().map(|entry| (key(&entry.path), entry.clone())).collect())
    }

    fn put(&mut self, artifact: &Artifact) {
        for (at, _) in artifact.path.match_indices('/') {
            self.make_dir(&artifact.path[..at]);
        }
        self.clear_below(&artifact.path);
        let kind = Kind::File { size: artifact.size, digest: artifact.digest };
        let entry = Entry { path: artifact.path.clone(), mode: artifact.mode, kind };
        self.0.insert(key(&artifact.path), entry);
    }

    fn may_be_dir(&self, path: &str) -> bool {
        self.0.get(&key(path)).is_none_or(|entry| entry.kind == Kind::Dir)
    }

    fn make_dir(&mut self, path: &str) {
        let entry = self.0.entry(key(path));
        let made = || Entry { path: path.to_owned(), mode: MADE_DIR, kind: Kind::Dir };
        let entry = entry.or_insert_with(made);
        if entry.kind != Kind::Dir {
            *entry = made();
        }
    }

    fn clear_below(&mut self, path: &str) {
        let from = key(path) + "\0";
        let below: Vec<String> = self
            .0
            .range(from.clone()..)
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(&from))
            .cloned()
            .collect();
        // A single file's key is empty, and nothing is below it.
        for key in below.iter().filter(|_| !path.is_empty()) {
            self.0.remove(key);
        }
    }

    fn into_manifest(self) -> Manifest {
        Manifest { entries: self.0.into_values().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_model::{Digest, Generation, NodeId, Timestamp};

    fn file(path: &str, content: u8) -> Entry {
        Entry { path: path.into(), mode: 0o644, kind: Kind::File { size: 1, digest: Digest([content; 32]) } }
    }

    fn dir(path: &str, mode: u32) -> Entry {
        Entry { path: path.into(), mode, kind: Kind::Dir }
    }

    fn artifact(path: &str, content: u8) -> Artifact {
        Artifact {
            generation: Generation(1),
            node: NodeId::new("n").unwrap(),
            node_rank: NodeRank(0),
            mount: "./d".into(),
            path: path.into(),
            size: 1,
            digest: Digest([content; 32]),
            mode: 0o600,
            modified: Timestamp(0),
        }
    }

    fn merged(base: Vec<Entry>, artifacts: &[Artifact]) -> Vec<String> {
        let merged = merge(&Manifest { entries: base }, artifacts.iter());
        Manifest::decode(&merged.encode()).expect("a merged tree is a tree");
        let shown = |entry: &Entry| match &entry.kind {
            Kind::File { digest, .. } => format!("{}={}", entry.path, digest.0[0]),
            Kind::Dir => format!("{}/ {:o}", entry.path, entry.mode),
            Kind::Symlink { target } => format!("{} -> {target}", entry.path),
        };
        merged.entries.iter().map(shown).collect()
    }

    #[test]
    fn what_came_back_lies_over_what_was_shipped() {
        let base = vec![dir("out", 0o700), file("out/a", 1), file("out.txt", 1)];
        let back = [artifact("out/a", 2), artifact("out/new/b", 3), artifact("z", 4)];
        assert_eq!(
            merged(base, &back),
            ["out/ 700", "out/a=2", "out/new/ 755", "out/new/b=3", "out.txt=1", "z=4"]
        );
    }

    #[test]
    fn the_later_of_a_file_and_a_directory_of_one_name_wins() {
        let link = Entry { path: "l".into(), mode: 0o777, kind: Kind::Symlink { target: "d".into() } };
        let base = vec![dir("d", 0o755), file("d/x", 1), file("f", 1), link];
        let back = [artifact("d", 2), artifact("f/y", 3), artifact("l/z", 4)];
        assert_eq!(merged(base, &back), ["d=2", "f/ 755", "f/y=3", "l/ 755", "l/z=4"]);
    }

    #[test]
    fn a_single_file_is_replaced_and_stays_one() {
        assert_eq!(merged(vec![file("", 1)], &[artifact("", 2), artifact("x", 3)]), ["=2"]);
        assert_eq!(merged(vec![file("a", 1)], &[artifact("", 2)]), ["a=1"]);
    }

    #[test]
    fn directories_to_mount_at_are_made_where_there_is_nothing() {
        let base = Manifest { entries: vec![dir("d", 0o700), file("f", 1)] };
        let points = ["d/a/b", "f", "f/below"].map(str::to_owned);
        let made = with_points(&base, &points).unwrap();
        Manifest::decode(&made.encode()).unwrap();
        let paths: Vec<_> = made.entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["d", "d/a", "d/a/b", "f"]);
        assert_eq!(with_points(&base, &points[1..]), None);
        assert_eq!(with_points(&base, &["d".to_owned()]), None);
    }

    #[test]
    fn nothing_back_leaves_the_very_same_tree() {
        let base = Manifest { entries: vec![dir("d", 0o755), file("d/x", 1), file("d.x", 1)] };
        assert_eq!(merge(&base, [].iter()).reference(), base.reference());
    }
}

//! Where a job's files go on this machine.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use convoke_model::{Artifact, Collect, JobSpec};

use crate::cli::failure::Failure;
use crate::cli::ship::is_submitters;

/// The writable mounts whose files come back, by their source in the job file.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    mounts: BTreeMap<String, PathBuf>,
    /// Those that are the same directory on the nodes: what is written there is there.
    shared: BTreeMap<String, String>,
    collect: Collect,
}

/// Where one file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// A directory of the user's, which nothing leads out of.
    pub(crate) root: PathBuf,
    /// Below it; never empty.
    pub(crate) path: PathBuf,
    /// The mount's source, as the job file has it.
    pub(crate) mount: String,
    /// How an entry of what the mount held at submit would be called that lay here.
    pub(crate) entry: String,
}

impl Place {
    pub(crate) fn absolute(&self) -> PathBuf {
        self.root.join(&self.path)
    }
}

impl Places {
    /// Beside the job file as the submitter has it, or each mount below `dir`.
    pub(crate) fn of(spec: &JobSpec, dir: Option<&Path>) -> Result<Self, Failure> {
        let (mut mounts, mut shared) = (BTreeMap::<String, PathBuf>::new(), BTreeMap::new());
        for mount in &spec.container.volumes {
            if let Some(marker) = mount.shared.as_ref().filter(|_| !mount.read_only) {
                shared.insert(mount.source.clone(), marker.directory.clone());
            }
            let comes_back =
                is_submitters(mount.kind, &mount.source) && !mount.read_only && mount.content.is_some();
            if !comes_back || mounts.contains_key(&mount.source) {
                continue;
            }
            let path = match dir {
                Some(dir) => dir.join(downwards(&mount.source)),
                None => Path::new(&spec.project_dir).join(&mount.source).components().collect(),
            };
            let taken = mounts.iter().find(|(_, taken)| dir.is_some() && **taken == path);
            if let Some((other, _)) = taken {
                let message =
                    format!("the mounts {other} and {} would both go to {}", mount.source, path.display());
                return Err(
                    Failure::usage(message).hint("leave DIR out: then each goes to its own directory")
                );
            }
            mounts.insert(mount.source.clone(), path);
        }
        Ok(Self { mounts, shared, collect: spec.collect })
    }

    /// True if nothing of the job comes back.
    pub(crate) fn is_empty(&self) -> bool {
        self.mounts.is_empty()
    }

    /// What of it needs no coming back, as sentences.
    pub(crate) fn in_place(&self) -> impl Iterator<Item = String> {
        let sentence = |(source, directory): (&String, &String)| {
            format!(
                "{source} is on a file system that the nodes share: what the job wrote is in {directory} already"
            )
        };
        self.shared.iter().map(sentence)
    }

    /// `None` for a file of a mount that the job does not have, or whose files do not come back.
    pub(crate) fn place(&self, artifact: &Artifact) -> Option<Place> {
        let mount = self.mounts.get(&artifact.mount)?;
        let rank = artifact.node_rank.0;
        let own = (self.collect == Collect::All || rank != 0).then(|| format!("node-{rank}"));
        // A mount that is a single file is written in its directory.
        let (root, name) = match artifact.path.as_str() {
            "" => (mount.parent()?.to_owned(), mount.file_name()?.to_str()?),
            path => (mount.clone(), path),
        };
        let path = own.iter().map(String::as_str).chain([name]).collect();
        let entry =
            own.iter().map(String::as_str).chain([artifact.path.as_str()]).collect::<Vec<_>>().join("/");
        Some(Place { root, path, mount: artifact.mount.clone(), entry })
    }
}

/// A source without its `.` and `..`.
fn downwards(source: &str) -> PathBuf {
    Path::new(source).components().filter(|c| matches!(c, Component::Normal(_))).collect()
}

#[cfg(test)]
mod tests {
    use convoke_model::{
        Digest, Generation, JobName, MARKER_FILE, Marker, Mount, MountKind, NodeId, NodeRank, Timestamp,
        TreeRef,
    };

    use super::*;

    fn spec(mounts: &[(&str, bool)], collect: Collect) -> JobSpec {
        let content = TreeRef { digest: Digest([0; 32]), files: 0, bytes: 0 };
        let mount = |(source, read_only): &(&str, bool)| Mount {
            kind: MountKind::Bind,
            source: (*source).to_owned(),
            target: "/x".to_owned(),
            read_only: *read_only,
            content: Some(content.clone()),
            shared: None,
        };
        let mut spec = JobSpec::processes(JobName::new("train").unwrap(), vec!["x".to_owned()]);
        spec.project_dir = "/home/u/p".to_owned();
        spec.container.volumes = mounts.iter().map(mount).collect();
        spec.collect = collect;
        spec
    }

    fn artifact(mount: &str, path: &str, rank: u32) -> Artifact {
        Artifact {
            generation: Generation(1),
            node: NodeId::new("n").unwrap(),
            node_rank: NodeRank(rank),
            mount: mount.to_owned(),
            path: path.to_owned(),
            size: 1,
            digest: Digest([1; 32]),
            mode: 0o644,
            modified: Timestamp(0),
        }
    }

    fn goes(places: &Places, mount: &str, path: &str, rank: u32) -> Option<(PathBuf, String)> {
        places.place(&artifact(mount, path, rank)).map(|place| (place.absolute(), place.entry))
    }

    #[test]
    fn the_first_nodes_files_go_beside_the_job_file_and_all_nodes_to_directories_of_their_own() {
        let mounts = &[("./checkpoints", false), ("../runs", false), ("./model.bin", false)];
        let places = Places::of(&spec(mounts, Collect::NodeRankZero), None).unwrap();
        let at = |path: &str, entry: &str| Some((PathBuf::from(path), entry.to_owned()));
        assert_eq!(goes(&places, "./checkpoints", "a/b.pt", 0), at("/home/u/p/checkpoints/a/b.pt", "a/b.pt"));
        assert_eq!(goes(&places, "../runs", "x", 0), at("/home/u/p/../runs/x", "x"));
        assert_eq!(goes(&places, "./model.bin", "", 0), at("/home/u/p/model.bin", ""));
        let all = Places::of(&spec(mounts, Collect::All), None).unwrap();
        assert_eq!(
            goes(&all, "./checkpoints", "b.pt", 0),
            at("/home/u/p/checkpoints/node-0/b.pt", "node-0/b.pt")
        );
        assert_eq!(
            goes(&all, "./checkpoints", "b.pt", 3),
            at("/home/u/p/checkpoints/node-3/b.pt", "node-3/b.pt")
        );
        assert_eq!(goes(&all, "./model.bin", "", 1), at("/home/u/p/node-1/model.bin", "node-1/"));
    }

    #[test]
    fn what_is_read_only_or_no_mount_of_the_job_has_no_place() {
        let places =
            Places::of(&spec(&[("./data", true), ("./out", false)], Collect::NodeRankZero), None).unwrap();
        assert_eq!(goes(&places, "./data", "x", 0), None);
        assert_eq!(goes(&places, "./other", "x", 0), None);
        assert!(goes(&places, "./out", "x", 0).is_some());
        assert!(Places::of(&spec(&[("./data", true)], Collect::NodeRankZero), None).unwrap().is_empty());
    }

    #[test]
    fn what_the_nodes_share_is_said_to_be_there_and_nothing_of_it_comes_back() {
        let mut spec = spec(&[("./data", true), ("./out", false)], Collect::NodeRankZero);
        let marker =
            Marker { directory: "/mnt/p".to_owned(), file: MARKER_FILE.to_owned(), id: "a1".to_owned() };
        for mount in &mut spec.container.volumes {
            (mount.content, mount.shared) = (None, Some(marker.clone()));
        }
        let places = Places::of(&spec, None).unwrap();
        assert!(places.is_empty());
        let told: Vec<_> = places.in_place().collect();
        assert_eq!(told.len(), 1, "nothing was written to ./data: {told:?}");
        assert!(told[0].starts_with("./out is on") && told[0].contains("/mnt/p"), "{told:?}");
    }

    #[test]
    fn below_a_directory_each_mount_keeps_its_name() {
        let dir = Path::new("/tmp/got");
        let spec_of = |mounts| spec(mounts, Collect::NodeRankZero);
        let places = Places::of(&spec_of(&[("./out", false), ("../runs/a", false)]), Some(dir)).unwrap();
        assert_eq!(goes(&places, "../runs/a", "x", 0).unwrap().0, Path::new("/tmp/got/runs/a/x"));
        assert_eq!(goes(&places, "./out", "x", 0).unwrap().0, Path::new("/tmp/got/out/x"));
        let clash = Places::of(&spec_of(&[("./out", false), ("../out", false)]), Some(dir)).unwrap_err();
        assert!(clash.message.contains("./out and ../out"), "{}", clash.message);
    }
}

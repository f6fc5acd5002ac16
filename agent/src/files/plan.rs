//! What a job's mounts ask of its node, decided without touching the disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use convoke_model::{JobSpec, Marker, Mount, MountKind, NodeId, TreeRef};

use tokio::time::timeout;

use super::{HostMount, HostSource, sight};
use crate::blocking::blocking;
use crate::work::Refusal;

/// How long a file system may take to say whether a path is there: one whose server is away never does.
const LOOK: Duration = Duration::from_secs(30);

/// The submitter's directories that travel, and where everything is mounted.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) sources: Vec<Source>,
    pub(super) mounts: Vec<Planned>,
}

/// A directory or file of the submitter's. Mounts of one source show the same files, as they do
/// where there is but one host; sources within each other do not.
#[derive(Debug, PartialEq)]
pub(super) struct Source {
    /// As the job has it.
    pub(super) name: String,
    /// Where the submitter has it.
    pub(super) root: PathBuf,
    pub(super) tree: TreeRef,
    /// Some mount of it may be written to.
    pub(super) writable: bool,
}

#[derive(Debug, PartialEq)]
pub(super) struct Planned {
    pub(super) from: Origin,
    pub(super) target: String,
    pub(super) read_only: bool,
}

#[derive(Debug, PartialEq)]
pub(super) enum Origin {
    /// Index of a source.
    Source(usize),
    /// The node's own directory or file, which must be there.
    Own(PathBuf),
    /// The submitter's directory, which the node must see.
    Shared(Marker),
    Volume(String),
    AnonymousVolume,
}

impl Plan {
    pub(super) fn of(spec: &JobSpec, node: &NodeId) -> Result<Self, Refusal> {
        let mut plan = Self::default();
        for mount in &spec.container.volumes {
            let from = match mount.kind {
                MountKind::Bind => plan.bind(spec, mount, node)?,
                MountKind::Volume if mount.source.is_empty() => Origin::AnonymousVolume,
                MountKind::Volume => Origin::Volume(mount.source.clone()),
                MountKind::Tmpfs => {
                    let target = &mount.target;
                    return Err(Refusal::for_good(format!(
                        "the mount at {target} is a tmpfs among the volumes; write it as `tmpfs: [{target}]`"
                    )));
                }
            };
            plan.mounts.push(Planned { from, target: mount.target.clone(), read_only: mount.read_only });
        }
        Ok(plan)
    }

    /// Where below a source, mounted read-only, others are mounted: the engine cannot make a directory there
    /// itself. `is_dir` says which mounts need one.
    pub(super) fn points(&self, source: usize, is_dir: impl Fn(&Origin) -> bool) -> Vec<String> {
        let shown = self.mounts.iter().filter(|mount| mount.from == Origin::Source(source));
        let below = |outer: &Planned| {
            let outer = PathBuf::from(&outer.target);
            let others = self.mounts.iter().filter(|inner| is_dir(&inner.from));
            let inside = move |inner: &Planned| {
                let path = Path::new(&inner.target).strip_prefix(&outer).ok()?.to_str()?.to_owned();
                (!path.is_empty()).then_some(path)
            };
            others.filter_map(inside).collect::<Vec<_>>()
        };
        shown.flat_map(below).collect()
    }

    fn bind(&mut self, spec: &JobSpec, mount: &Mount, node: &NodeId) -> Result<Origin, Refusal> {
        let name = &mount.source;
        if let Some(marker) = &mount.shared {
            return Ok(Origin::Shared(marker.clone()));
        }
        match &mount.content {
            Some(tree) => {
                let root = mount.submitted(&spec.project_dir).unwrap_or_default();
                Ok(Origin::Source(self.source(name, root, tree, !mount.read_only)))
            }
            None if Path::new(name).is_absolute() => Ok(Origin::Own(PathBuf::from(name))),
            None => Err(Refusal::for_good(format!(
                "{name}, mounted at {}, did not come with the job to node {node}: it was submitted by a client \
                 that does not ship files; submit it again with this version's `convoke up`, or mount an \
                 absolute path that every node has",
                mount.target
            ))),
        }
    }

    fn source(&mut self, name: &str, root: PathBuf, tree: &TreeRef, writable: bool) -> usize {
        if let Some(at) = self.sources.iter().position(|known| known.name == name && known.tree == *tree) {
            self.sources[at].writable |= writable;
            return at;
        }
        self.sources.push(Source { name: name.to_owned(), root, tree: tree.clone(), writable });
        self.sources.len() - 1
    }
}

impl Planned {
    /// With the paths that the sources got.
    pub(super) fn on_host(self, sources: &[PathBuf]) -> HostMount {
        let source = match self.from {
            Origin::Source(at) => HostSource::Path(sources[at].clone()),
            Origin::Own(path) => HostSource::Path(path),
            Origin::Shared(marker) => HostSource::Path(marker.directory.into()),
            Origin::Volume(name) => HostSource::Volume(name),
            Origin::AnonymousVolume => HostSource::AnonymousVolume,
        };
        HostMount { source, target: self.target, read_only: self.read_only }
    }
}

/// The plan, if the node has what it needs; looked at beside the reactor, which a shared file system whose
/// server is away would hold up.
pub(super) async fn checked(plan: Plan, node: &NodeId) -> Result<Plan, Refusal> {
    let own = node.clone();
    let looking = blocking(move || {
        check_own(&plan, &own)?;
        check_shared(&plan, &own)?;
        Ok(plan)
    });
    match timeout(LOOK, looking).await {
        Ok(Ok(checked)) => checked,
        Ok(Err(problem)) => Err(Refusal::for_now(problem)),
        Err(_) => Err(Refusal::for_now(format!(
            "node {node} cannot tell within {} s whether the directories of its own that the job mounts are there: is \
             the server of a shared file system away?",
            LOOK.as_secs()
        ))),
    }
}

/// The node's own path must be there: one that is not is, as a rule, a mistake, or a data set that this
/// node lacks, and an empty directory in its place would be found out late.
fn check_own(plan: &Plan, node: &NodeId) -> Result<(), Refusal> {
    for planned in &plan.mounts {
        if let Origin::Own(path) = &planned.from
            && let Err(error) = std::fs::metadata(path)
        {
            return Err(Refusal::for_good(format!(
                "{} of node {node}, to be mounted at {}, cannot be used: {error}; an absolute path is the node's own: \
                 create it there, or write it relative to the Compose file and it travels with the job",
                path.display(),
                planned.target
            )));
        }
    }
    Ok(())
}

/// The node saw the directory when the job was submitted, or was not there then. Another node may see it.
fn check_shared(plan: &Plan, node: &NodeId) -> Result<(), Refusal> {
    for planned in &plan.mounts {
        if let Origin::Shared(marker) = &planned.from
            && let Err(error) = sight::is_there(marker)
        {
            return Err(Refusal::for_now(format!(
                "node {node} does not see the shared directory {}, to be mounted at {}: its marker {} is not as the \
                 submitter left it: {error}; mount the file system there, or submit the job again with --files ship",
                marker.directory, planned.target, marker.file
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use convoke_model::Digest;

    fn mount(source: &str, target: &str, read_only: bool, content: Option<u8>) -> Mount {
        let content = content.map(|n| TreeRef { digest: Digest([n; 32]), files: 1, bytes: 1 });
        Mount {
            kind: MountKind::Bind,
            source: source.into(),
            target: target.into(),
            read_only,
            content,
            shared: None,
        }
    }

    fn planned(volumes: Vec<Mount>) -> Result<Plan, Refusal> {
        let mut spec = testing::spec();
        spec.container.volumes = volumes;
        Plan::of(&spec, &NodeId::new("n1").unwrap())
    }

    #[test]
    fn mounts_of_one_source_share_it_and_one_writer_makes_it_writable() {
        let plan = planned(vec![
            mount("./data", "/data", true, Some(1)),
            mount("./out", "/out", true, Some(2)),
            mount("./data", "/also", false, Some(1)),
        ])
        .unwrap();
        let writable: Vec<_> = plan.sources.iter().map(|s| (s.name.as_str(), s.writable)).collect();
        assert_eq!(writable, [("./data", true), ("./out", false)]);
        let paths = [PathBuf::from("/a"), PathBuf::from("/b")];
        let mounts: Vec<_> = plan.mounts.into_iter().map(|m| m.on_host(&paths)).collect();
        assert_eq!(mounts[0].source, mounts[2].source);
        assert_eq!((mounts[0].read_only, mounts[2].read_only), (true, false));
    }

    #[test]
    fn what_is_mounted_in_a_source_is_found_by_its_path_there() {
        let plan = planned(vec![
            mount(".", "/w", true, Some(1)),
            mount("./out", "/w/a/out", false, Some(2)),
            mount("./conf", "/w/conf", true, Some(3)),
            mount("./else", "/workspace", true, Some(4)),
        ])
        .unwrap();
        let is_dir = |origin: &Origin| *origin != Origin::Source(2);
        assert_eq!(plan.points(0, is_dir), ["a/out"]);
        assert!(plan.points(1, is_dir).is_empty());
    }

    #[test]
    fn a_relative_source_without_content_is_refused_for_good_with_the_way_out() {
        let refusal = planned(vec![mount("./data", "/data", false, None)]).unwrap_err();
        assert!(!refusal.retryable);
        assert!(
            refusal.message.contains("./data") && refusal.message.contains("submit it again"),
            "{refusal:?}"
        );
    }

    #[test]
    fn a_shared_directory_is_mounted_where_it_is_once_its_marker_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap().to_owned();
        let marker = Marker { directory: path.clone(), file: ".convoke-shared".into(), id: "a1".into() };
        let shared = Mount { shared: Some(marker), ..mount("./data", "/data", true, None) };
        let (plan, node) = (planned(vec![shared]).unwrap(), NodeId::new("n1").unwrap());
        assert!(plan.sources.is_empty(), "nothing is brought");
        let refusal = check_shared(&plan, &node).unwrap_err();
        assert!(refusal.retryable, "another node may see it");
        for part in [path.as_str(), "node n1", "--files ship"] {
            assert!(refusal.message.contains(part), "{refusal:?}");
        }
        std::fs::write(directory.path().join(".convoke-shared"), "a1").unwrap();
        check_shared(&plan, &node).unwrap();
        let mounts: Vec<_> = plan.mounts.into_iter().map(|m| m.on_host(&[])).collect();
        assert_eq!(mounts[0].source, HostSource::Path(directory.path().to_owned()));
        assert!(mounts[0].read_only);
    }

    #[test]
    fn an_absolute_path_that_the_node_lacks_is_refused_by_name() {
        let plan = planned(vec![mount("/no/such/place", "/data", false, None)]).unwrap();
        let refusal = check_own(&plan, &NodeId::new("n1").unwrap()).unwrap_err();
        assert!(!refusal.retryable);
        for part in ["/no/such/place", "node n1", "create it there"] {
            assert!(refusal.message.contains(part), "{refusal:?}");
        }
    }
}

//! A node's files without the rest of an agent, and jobs that have some.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use convoke_agent::conditions::Conditions;
use convoke_agent::files::{Files, FilesConfig, HostMount, HostSource, Tell};
use convoke_agent::home::Home;
use convoke_agent::link::Link;
use convoke_model::{AgentInstance, DesiredReplica, Digest, Mount, MountKind, NodeId, TreeRef};
use convoke_tree::{Entry, Kind, Manifest};
use sha2::{Digest as _, Sha256};

use super::{Coordinator, testing, until};

/// What an agent lays files out with, on a state directory.
pub struct Node {
    pub files: Arc<Files>,
    pub tell: Tell,
    pub state: PathBuf,
}

impl Node {
    pub fn new(state: &Path, url: &str, config: FilesConfig) -> Self {
        Self::at(Home::open(state).unwrap(), url, config)
    }

    /// The next one, once the state directory is let go.
    pub async fn again(state: &Path, url: &str, config: FilesConfig) -> Self {
        Self::at(until("the state directory", || Home::open(state).ok()).await, url, config)
    }

    fn at(home: Home, url: &str, config: FilesConfig) -> Self {
        let (node, instance) = (NodeId::new("n1").unwrap(), AgentInstance::new("i1").unwrap());
        let state = home.root().to_owned();
        let home = Arc::new(home);
        let link = Arc::new(Link::new(url.to_owned(), &node, &instance));
        let tell = Tell::default();
        let files = Files::open(node, home, link, tell.clone(), config).unwrap();
        Self { files: Arc::new(files), tell, state }
    }

    pub fn replica_dir(&self, replica: &DesiredReplica) -> PathBuf {
        let key = replica.key();
        self.state.join("replicas").join(format!("{}.{}.{}", key.job, key.generation, key.node_rank))
    }

    /// Lays the replica out; the paths of its mounts.
    pub async fn paths(&self, replica: &DesiredReplica) -> Vec<PathBuf> {
        paths(&self.files.lay_out(replica, "").await.unwrap())
    }

    /// Files of the cache's blobs.
    pub fn blobs(&self) -> usize {
        let directories = std::fs::read_dir(self.state.join("cache/blobs")).unwrap();
        directories.map(|directory| std::fs::read_dir(directory.unwrap().path()).unwrap().count()).sum()
    }
}

pub fn paths(mounts: &[HostMount]) -> Vec<PathBuf> {
    let path = |mount: &HostMount| match &mount.source {
        HostSource::Path(path) => path.clone(),
        other => panic!("{other:?}"),
    };
    mounts.iter().map(path).collect()
}

pub fn digest_of(content: &[u8]) -> Digest {
    Digest(Sha256::digest(content).into())
}

/// The conditions' names.
pub fn names(conditions: &Conditions) -> Vec<String> {
    conditions.list().into_iter().map(|condition| condition.name).collect()
}

/// Ships a tree: a path that ends in `/` is a directory, a content `-> x` a link; mode 0644 and 0755.
pub fn tree(coordinator: &Coordinator, entries: &[(&str, &str)]) -> TreeRef {
    let mut memory = coordinator.memory();
    let entry = |(path, content): &(&str, &str)| match (path.strip_suffix('/'), content.strip_prefix("-> ")) {
        (Some(path), _) => Entry { path: path.into(), mode: 0o755, kind: Kind::Dir },
        (None, Some(target)) => {
            Entry { path: (*path).into(), mode: 0o777, kind: Kind::Symlink { target: target.into() } }
        }
        (None, None) => {
            let digest = memory.files.put(content.as_bytes().to_vec());
            let kind = Kind::File { size: content.len() as u64, digest };
            Entry { path: (*path).into(), mode: 0o644, kind }
        }
    };
    let manifest = Manifest { entries: entries.iter().map(entry).collect() };
    memory.files.put(manifest.encode());
    manifest.reference()
}

/// A mount of the submitter's directory.
pub fn bind(source: &str, read_only: bool, content: &TreeRef) -> Mount {
    let target = format!("/{}", source.trim_start_matches("./"));
    Mount {
        kind: MountKind::Bind,
        source: source.into(),
        target,
        read_only,
        content: Some(content.clone()),
        shared: None,
    }
}

/// A replica of one container.
pub fn container(job: &str, generation: u64, volumes: Vec<Mount>) -> DesiredReplica {
    let mut replica = testing::desired_replica(job, generation, 0, &["cpu-0"]);
    replica.spec.image = Some("image".into());
    replica.spec.container.volumes = volumes;
    replica
}

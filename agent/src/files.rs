//! What a replica's tasks find where their job has mounts: the node's own directories and volumes, and
//! the submitter's files, laid out here.

use std::path::{Path, PathBuf};

use convoke_model::{DesiredReplica, Mount, MountKind};
use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::work::Refusal;

/// A mount whose source is known on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMount {
    pub source: HostSource,
    /// Path in the container.
    pub target: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostSource {
    /// Absolute, on this host.
    Path(PathBuf),
    /// A named volume of the engine's.
    Volume(String),
    /// A new volume for each task.
    AnonymousVolume,
}

/// Makes the sources of the replica's mounts.
pub async fn lay_out(_host: &Host, desired: &DesiredReplica) -> Result<Vec<HostMount>, Refusal> {
    let spec = &desired.spec;
    Ok(spec.container.volumes.iter().map(|mount| own(Path::new(&spec.project_dir), mount)).collect())
}

fn own(project: &Path, mount: &Mount) -> HostMount {
    let source = match mount.kind {
        MountKind::Bind | MountKind::Tmpfs => HostSource::Path(project.join(&mount.source)),
        MountKind::Volume if mount.source.is_empty() => HostSource::AnonymousVolume,
        MountKind::Volume => HostSource::Volume(mount.source.clone()),
    };
    HostMount { source, target: mount.target.clone(), read_only: mount.read_only }
}

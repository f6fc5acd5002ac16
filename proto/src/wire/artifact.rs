//! Files that came back.

use convoke_model::{Artifact, Generation, NodeRank, Timestamp};

use super::{InvalidMessage, MAX_PATH, digest, id, invalid, relative_path, required};
use crate::v1;

/// Permission bits, without the file's type.
const MODE: u32 = 0o7777;

impl From<Artifact> for v1::Artifact {
    /// Without a sequence, which the coordinator gives.
    fn from(artifact: Artifact) -> Self {
        Self {
            sequence: 0,
            generation: artifact.generation.0,
            node: artifact.node.into(),
            node_rank: artifact.node_rank.0,
            mount: artifact.mount,
            path: artifact.path,
            size: artifact.size,
            sha256: artifact.digest.0.to_vec().into(),
            mode: artifact.mode,
            modified_unix_ms: artifact.modified.0,
        }
    }
}

impl TryFrom<v1::Artifact> for Artifact {
    type Error = InvalidMessage;
    fn try_from(wire: v1::Artifact) -> Result<Self, InvalidMessage> {
        required((!wire.mount.is_empty()).then_some(()), "artifact.mount")?;
        if wire.mount.len() > MAX_PATH || wire.mount.contains('\0') {
            return Err(invalid("artifact.mount", "is not a path"));
        }
        if !wire.path.is_empty() {
            relative_path(&wire.path, "artifact.path")?;
        }
        Ok(Self {
            generation: Generation(wire.generation),
            node: id(&wire.node, "artifact.node")?,
            node_rank: NodeRank(wire.node_rank),
            mount: wire.mount,
            path: wire.path,
            size: wire.size,
            digest: digest(&wire.sha256, "artifact.sha256")?,
            mode: wire.mode & MODE,
            modified: Timestamp(wire.modified_unix_ms),
        })
    }
}

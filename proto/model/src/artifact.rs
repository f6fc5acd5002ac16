//! Files that a job wrote and that come back.

use serde::{Deserialize, Serialize};

use crate::{Digest, Generation, NodeId, NodeRank, Timestamp};

/// One file as a replica left it; a later one of the same mount, node rank and path replaces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    pub generation: Generation,
    pub node: NodeId,
    pub node_rank: NodeRank,
    /// The mount's source as the job has it: the directory of the submitter's, relative to its project.
    pub mount: String,
    /// Relative to the mount, `/`-separated, without `..`; empty where the mount itself is a file.
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub digest: Digest,
    /// Permission bits.
    pub mode: u32,
    /// When it was last written, by the node's clock.
    pub modified: Timestamp,
}

//! Checkpoints: step + shards + manifest.

use serde::{Deserialize, Serialize};

use crate::{Digest, Generation, JobId, Rank, Step, Timestamp};

/// Names a complete checkpoint for resume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CheckpointRef {
    /// The job that wrote it; another one after `up --replace`.
    pub job: JobId,
    pub generation: Generation,
    pub step: Step,
}

/// A checkpoint in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    pub reference: CheckpointRef,
    pub state: CheckpointState,
    /// Ranks that must each store a shard.
    pub expected: Vec<Rank>,
    pub shards: Vec<Shard>,
    pub created: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointState {
    /// Some shard is missing; never offered for resume.
    Partial,
    /// Every shard is stored and its hash verified.
    Complete,
}

/// One rank's part of a checkpoint: the files of its `step-<n>/` directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    pub rank: Rank,
    pub files: Vec<ShardFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardFile {
    /// Relative to the checkpoint directory, `/`-separated, without `..`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub digest: Digest,
}

impl Checkpoint {
    /// Stored bytes over all shards.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().flat_map(|s| &s.files).map(|f| f.size).sum()
    }
}

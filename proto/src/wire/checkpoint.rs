//! Checkpoints, shards and their files.

use convoke_model::{Checkpoint, CheckpointRef, CheckpointState, Generation, Rank, Shard, ShardFile, Step};

use super::{InvalidMessage, all, digest, id, invalid, relative_path};
use crate::v1;

impl From<CheckpointRef> for v1::CheckpointRef {
    fn from(reference: CheckpointRef) -> Self {
        Self { job_id: reference.job.into(), generation: reference.generation.0, step: reference.step.0 }
    }
}

impl TryFrom<v1::CheckpointRef> for CheckpointRef {
    type Error = InvalidMessage;
    fn try_from(wire: v1::CheckpointRef) -> Result<Self, InvalidMessage> {
        Ok(Self {
            job: id(&wire.job_id, "checkpoint.job_id")?,
            generation: Generation(wire.generation),
            step: Step(wire.step),
        })
    }
}

impl From<Checkpoint> for v1::Checkpoint {
    fn from(checkpoint: Checkpoint) -> Self {
        let state = match checkpoint.state {
            CheckpointState::Partial => v1::CheckpointState::Partial,
            CheckpointState::Complete => v1::CheckpointState::Complete,
        };
        Self {
            bytes: checkpoint.bytes(),
            reference: Some(checkpoint.reference.into()),
            state: state.into(),
            expected_ranks: checkpoint.expected.iter().map(|r| r.0).collect(),
            shards: checkpoint.shards.into_iter().map(Into::into).collect(),
            created_unix_ms: checkpoint.created.0,
        }
    }
}

impl From<Shard> for v1::Shard {
    fn from(shard: Shard) -> Self {
        Self { rank: shard.rank.0, files: shard.files.into_iter().map(Into::into).collect() }
    }
}

impl TryFrom<v1::Shard> for Shard {
    type Error = InvalidMessage;
    fn try_from(wire: v1::Shard) -> Result<Self, InvalidMessage> {
        let files: Vec<ShardFile> = all(wire.files)?;
        if files.is_empty() {
            return Err(InvalidMessage::Missing { field: "shard.files" });
        }
        let mut paths: Vec<&str> = files.iter().map(|f| f.path.as_str()).collect();
        paths.sort_unstable();
        if let Some(pair) = paths.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(invalid("shard.files", format!("{:?} is there twice", pair[0])));
        }
        Ok(Self { rank: Rank(wire.rank), files })
    }
}

impl From<ShardFile> for v1::ShardFile {
    fn from(file: ShardFile) -> Self {
        Self { path: file.path, size: file.size, sha256: file.digest.0.to_vec().into() }
    }
}

impl TryFrom<v1::ShardFile> for ShardFile {
    type Error = InvalidMessage;
    fn try_from(wire: v1::ShardFile) -> Result<Self, InvalidMessage> {
        relative_path(&wire.path, "file.path")?;
        if wire.path.contains('\\') || wire.path.len() > 1024 {
            return Err(invalid(
                "file.path",
                format!("{:?} is not a plain path below the checkpoint", wire.path),
            ));
        }
        let digest = digest(&wire.sha256, "file.sha256")?;
        Ok(Self { path: wire.path, size: wire.size, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_out_of_the_checkpoint_is_refused() {
        for path in ["../x", "/etc/passwd", "a/../../b", "", "./a", "a//b", "a\0b", "a\\b"] {
            let wire = v1::ShardFile { path: path.into(), size: 1, sha256: vec![0; 32].into() };
            assert!(ShardFile::try_from(wire).is_err(), "{path:?} was accepted");
        }
        let wire = v1::ShardFile { path: "a/b.bin".into(), size: 1, sha256: vec![0; 32].into() };
        assert!(ShardFile::try_from(wire).is_ok());
    }

    #[test]
    fn a_shard_that_names_a_file_twice_is_refused() {
        let file = v1::ShardFile { path: "a".into(), size: 1, sha256: vec![0; 32].into() };
        let error = Shard::try_from(v1::Shard { rank: 0, files: vec![file.clone(), file] }).unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
    }
}

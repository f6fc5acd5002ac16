//! What a start removes: half-received shards, half-done deletions, and shards that the catalogue
//! does not name.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use convoke_model::{CheckpointRef, Generation, JobId, Rank, Step};

use super::TEMPORARY;

pub(super) fn sweep(root: &Path, known: &BTreeSet<(CheckpointRef, Rank)>) -> io::Result<()> {
    match std::fs::remove_dir_all(root.join(TEMPORARY)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut missing = known.clone();
    for (job_dir, name) in subdirectories(root)? {
        let Ok(job) = JobId::new(&name) else {
            tracing::warn!("{} is not a job's: left alone", job_dir.display());
            continue;
        };
        for (checkpoint_dir, name) in subdirectories(&job_dir)? {
            let Some(reference) = checkpoint_of(&job, &name) else { continue };
            for (shard_dir, name) in subdirectories(&checkpoint_dir)? {
                let rank = name.strip_prefix("rank-").and_then(|n| n.parse().ok()).map(Rank);
                let named = rank.is_some_and(|rank| missing.remove(&(reference.clone(), rank)));
                if !named {
                    tracing::info!("removing {}, which the catalogue does not name", shard_dir.display());
                    std::fs::remove_dir_all(shard_dir)?;
                }
            }
            remove_if_empty(&checkpoint_dir)?;
        }
        remove_if_empty(&job_dir)?;
    }
    for (reference, rank) in missing {
        let CheckpointRef { job, generation, step } = reference;
        tracing::error!(
            "the shard of rank {rank} of {job}'s checkpoint {generation}-{step} is gone from disk"
        );
    }
    Ok(())
}

fn checkpoint_of(job: &JobId, name: &str) -> Option<CheckpointRef> {
    let (generation, step) = name.split_once('-')?;
    let (generation, step) = (Generation(generation.parse().ok()?), Step(step.parse().ok()?));
    Some(CheckpointRef { job: job.clone(), generation, step })
}

fn subdirectories(dir: &Path) -> io::Result<Vec<(std::path::PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push((entry.path(), entry.file_name().to_string_lossy().into_owned()));
        }
    }
    Ok(found)
}

fn remove_if_empty(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => Err(error),
        _ => Ok(()),
    }
}

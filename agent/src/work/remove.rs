//! Forgetting a replica: its telemetry is seen off, then its tasks and files go.

use std::io;
use std::path::Path;
use std::time::Duration;

use convoke_model::ReplicaKey;
use tracing::warn;

use crate::host::Host;
use crate::runtime::{RuntimeError, TaskKey};
use crate::services::TaskServices;

/// How long lines that are not acknowledged keep an ended, unwanted replica on disk. Longer than a
/// coordinator's restart; what a coordinator that is away for longer lost of a job that it has
/// forgotten is lost.
const TELEMETRY_TIMEOUT: Duration = Duration::from_secs(600);
/// Pause before another try, after the disk or the runtime refused.
const RETRY: Duration = Duration::from_secs(5);

/// Removes everything of a replica but what it owes; true if that is something.
pub async fn remove(host: &Host, key: &ReplicaKey, tasks: &[TaskKey], services: Vec<TaskServices>) -> bool {
    let seen_off = futures::future::join_all(services.into_iter().map(TaskServices::telemetry_done));
    if tokio::time::timeout(TELEMETRY_TIMEOUT, seen_off).await.is_err() {
        warn!(job = %key.job, "the last lines were not acknowledged in time and are dropped");
    }
    let kept = loop {
        match remove_files(host, key, tasks).await {
            Ok(kept) => break kept,
            Err(problem) => host.conditions.raise("CannotRemove", &about(key), problem),
        }
        tokio::time::sleep(RETRY).await;
    };
    host.conditions.forget(&about(key));
    if !kept {
        host.warnings.forget(&about(key));
    }
    for task in tasks {
        host.conditions.forget(&task.to_string());
    }
    kept
}

async fn remove_files(host: &Host, key: &ReplicaKey, tasks: &[TaskKey]) -> Result<bool, String> {
    for task in tasks {
        match host.runtime.remove(task).await {
            Ok(()) | Err(RuntimeError::Unknown(_)) => {}
            Err(error) => {
                if matches!(error, RuntimeError::StillRunning(_)) {
                    // A start that was given up came about after all. What fails is tried again.
                    let _ = host.runtime.stop(task, Duration::ZERO).await;
                }
                return Err(format!("task {task} cannot be removed: {error}"));
            }
        }
        remove_dir(&host.home.socket_dir(key, task.rank)).await?;
    }
    if host.files.keep(key).await? {
        return Ok(true);
    }
    // What is mounted goes first.
    host.files.remove(key).await?;
    remove_dir(&host.home.replica_dir(key)).await.map(|()| false)
}

async fn remove_dir(path: &Path) -> Result<(), String> {
    match tokio::fs::remove_dir_all(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("{} cannot be removed: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

/// What a replica's conditions are about.
pub fn about(key: &ReplicaKey) -> String {
    format!("{} generation {}", key.job, key.generation)
}

//! Starting a replica's tasks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use convoke_model::{DesiredReplica, ExitStatus, Rank, Rendezvous, Shards, TaskExit};
use tracing::{info, warn};

use crate::clock::now;
use crate::env::{Facts, task_environment};
use crate::home::socket_in;
use crate::host::Host;
use crate::interfaces;
use crate::peers::reach;
use crate::replica::task_ranks;
use crate::runtime::{RuntimeError, TaskKey, TaskSpec, working_dir};
use crate::work::Refusal;

/// How long a task may take to start: a fork and an exec, on a host that may be swapping.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Exit code of a command that was found but cannot be run, as shells have it.
const CANNOT_RUN: i32 = 126;

/// What the tasks are started with.
#[derive(Debug, Clone)]
pub struct Start {
    pub desired: DesiredReplica,
    pub rendezvous: Rendezvous,
    pub resume: Option<PathBuf>,
    /// First ranks of the tasks to start.
    pub ranks: Vec<Rank>,
}

/// Starts the tasks, all at once, if every peer is within reach. Returns the exits of those that never
/// will run and of which the runtime knows nothing.
pub async fn start(host: &Host, start: &Start) -> Result<BTreeMap<Rank, TaskExit>, Refusal> {
    check_peers(host, start).await?;
    let starting = start.ranks.iter().map(|rank| async move {
        let exit = start_one(host, start, *rank).await.err()?;
        warn!(job = %start.desired.job, %rank, message = exit.message, "task could not be started");
        Some((*rank, exit))
    });
    Ok(futures::future::join_all(starting).await.into_iter().flatten().collect())
}

async fn check_peers(host: &Host, start: &Start) -> Result<(), Refusal> {
    let desired = &start.desired;
    // Some run already: their peers were within reach, and may be past answering.
    if start.ranks.len() < task_ranks(desired).len() {
        return Ok(());
    }
    let data =
        interfaces::choose(&host.addresses, desired.spec.interface.as_deref()).map_err(Refusal::for_now)?;
    reach(data, &host.node, &desired.key(), &start.rendezvous).await.map_err(Refusal::for_now)
}

async fn start_one(host: &Host, start: &Start, rank: Rank) -> Result<(), TaskExit> {
    let spec =
        task_spec(host, start, rank).map_err(|message| failed(ExitStatus::Code(CANNOT_RUN), message))?;
    let key = spec.key.clone();
    match tokio::time::timeout(START_TIMEOUT, host.runtime.start(spec)).await {
        // An earlier agent started it and died before it could say so.
        Ok(Ok(()) | Err(RuntimeError::Exists(_))) => Ok(()),
        Ok(Err(error)) => Err(failed(ExitStatus::Unknown, with_sources(&error))),
        Err(_) if host.runtime.status(&key).is_some() => Ok(()),
        Err(_) => {
            // What may still come of it must not outlive the report that nothing did.
            let _ = host.runtime.stop(&key, Duration::ZERO).await;
            let message = format!("task {key} did not start within {} s", START_TIMEOUT.as_secs());
            Err(failed(ExitStatus::Unknown, message))
        }
    }
}

fn task_spec(host: &Host, start: &Start, rank: Rank) -> Result<TaskSpec, String> {
    let desired = &start.desired;
    let key = TaskKey { replica: desired.key(), rank };
    let files = host.runtime.task_dir(&key);
    let index = task_ranks(desired).iter().position(|r| *r == rank).unwrap_or_default();
    let data =
        interfaces::choose(&host.addresses, desired.spec.interface.as_deref()).map_err(|e| e.to_string())?;
    let environment = task_environment(&Facts {
        replica: desired,
        rendezvous: &start.rendezvous,
        task_index: u32::try_from(index).expect("device lists are bounded by MAX_DEVICES_PER_REPLICA"),
        data,
        socket: &socket_in(&host.home.socket_dir(&key.replica, rank)),
        checkpoint_dir: &checkpoint_dir(host, desired, rank),
        resume_from: start.resume.as_deref(),
        metrics: &files.metrics(),
        log_dir: &files.path().join("torchrun"),
        visibility: &host.devices.visibility(&desired.placement.devices),
        node: &BTreeMap::new(),
    })
    .map_err(|e| e.to_string())?;
    for note in &environment.notes {
        info!(job = %desired.job, %rank, "{note}");
    }
    Ok(TaskSpec {
        key,
        node: host.node.clone(),
        argv: desired.spec.argv(),
        environment: environment.variables,
        working_dir: working_dir(&desired.spec),
        stop_signal: desired.spec.stop_signal,
        container: None,
    })
}

/// Where a task leaves its finished `step-<n>/`: one for each task, except where the job names a
/// directory and only rank 0 writes to it.
pub fn checkpoint_dir(host: &Host, desired: &DesiredReplica, rank: Rank) -> PathBuf {
    match &desired.spec.checkpoint.dir {
        None => host.home.checkpoint_dir(&desired.key(), rank),
        Some(directory) => {
            let directory = Path::new(&desired.spec.project_dir).join(directory);
            match desired.spec.checkpoint.shards {
                Shards::RankZero => directory,
                Shards::All => directory.join(format!("rank-{rank}")),
            }
        }
    }
}

fn failed(status: ExitStatus, message: String) -> TaskExit {
    TaskExit { status, at: now(), stopped: false, message: Some(message) }
}

/// The error and what caused it, in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Some errors print their source themselves.
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

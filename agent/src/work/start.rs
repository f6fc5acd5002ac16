//! Starting a replica's tasks.

use std::collections::BTreeMap;
use std::time::Duration;

use convoke_model::{
    ClusterId, ContainerOptions, DesiredReplica, DeviceId, DeviceKind, ExitStatus, Rank, RankLayout,
    Rendezvous, TaskExit,
};
use tracing::{info, warn};

use super::explain::{Ended, explain};
use super::paths::{Inside, TaskPaths};
use super::with_sources;
use super::{hosts, names, network};
use crate::blocking::blocking;
use crate::clock::now;
use crate::env::{Facts, task_environment};
use crate::host::Host;
use crate::ledger::Record;
use crate::peers::reach;
use crate::replica::task_ranks;
use crate::runtime::{Container, RuntimeError, TaskKey, TaskSpec, TaskStatus, working_dir};
use crate::work::Refusal;

/// How long a task may take to start: a fork and an exec, or a container, on a host that may be
/// swapping.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Exit code of a command that was found but cannot be run, as shells have it.
const CANNOT_RUN: i32 = 126;

/// What the tasks are started with.
#[derive(Debug, Clone)]
pub struct Start {
    pub record: Record,
    pub rendezvous: Rendezvous,
    /// First ranks of the tasks to start.
    pub ranks: Vec<Rank>,
    pub cluster: Option<ClusterId>,
}

/// Starts the tasks, all at once, if every peer is within reach; of containers the first one first, since
/// the others join it. Returns the exits of those that never will run and of which the runtime knows
/// nothing.
pub async fn start(host: &Host, start: &Start) -> Result<BTreeMap<Rank, TaskExit>, Refusal> {
    check_peers(host, start).await?;
    let desired = &start.record.desired;
    let first = task_ranks(desired).first().copied();
    let joined = desired.spec.image.is_some();
    let (leading, rest): (Vec<Rank>, Vec<Rank>) =
        start.ranks.iter().partition(|rank| joined && Some(**rank) == first);
    let mut failed = BTreeMap::new();
    for ranks in [leading, rest] {
        let starting = ranks.iter().map(|rank| async move {
            let exit = start_one(host, start, *rank).await.err()?;
            warn!(job = %desired.job, %rank, message = exit.message, "task could not be started");
            let task = TaskKey { replica: desired.key(), rank: *rank };
            let ended = Ended { task, desired: desired.clone(), exit: exit.clone(), usage: None };
            Some((*rank, TaskExit { explanation: explain(host, ended).await, ..exit }))
        });
        failed.extend(futures::future::join_all(starting).await.into_iter().flatten());
    }
    Ok(failed)
}

async fn check_peers(host: &Host, start: &Start) -> Result<(), Refusal> {
    let desired = &start.record.desired;
    // Some run already: their peers were within reach, and may be past answering.
    if start.ranks.len() < task_ranks(desired).len() {
        return Ok(());
    }
    let data = network::data(host, desired).map_err(Refusal::for_now)?;
    reach(&data, &host.node, &desired.key(), &start.rendezvous).await.map_err(Refusal::for_now)
}

async fn start_one(host: &Host, start: &Start, rank: Rank) -> Result<(), TaskExit> {
    let spec = task_spec(host, start, rank).await;
    let spec = spec.map_err(|message| failed(ExitStatus::Code(CANNOT_RUN), message))?;
    let key = spec.key.clone();
    match tokio::time::timeout(START_TIMEOUT, host.runtime.start(spec)).await {
        // An earlier agent started it and died before it could say so.
        Ok(Ok(()) | Err(RuntimeError::Exists(_))) => Ok(()),
        Ok(Err(error)) => Err(failed(ExitStatus::Unknown, with_sources(&error))),
        Err(_) if host.runtime.status(&key).is_some_and(|status| status != TaskStatus::Starting) => Ok(()),
        Err(_) => {
            // What may still come of it must not outlive the report that nothing did.
            let _ = host.runtime.stop(&key, Duration::ZERO).await;
            let message = format!("task {key} did not start within {} s", START_TIMEOUT.as_secs());
            Err(failed(ExitStatus::Unknown, message))
        }
    }
}

async fn task_spec(host: &Host, start: &Start, rank: Rank) -> Result<TaskSpec, String> {
    let Record { desired, inside, resume, .. } = &start.record;
    let key = TaskKey { replica: desired.key(), rank };
    let paths = TaskPaths::of(host, desired, inside.as_ref(), resume.as_deref(), rank);
    let index = task_ranks(desired).iter().position(|r| *r == rank).unwrap_or_default();
    let data = network::data(host, desired)?;
    let environment = task_environment(&Facts {
        replica: desired,
        rendezvous: &start.rendezvous,
        task_index: u32::try_from(index).expect("device lists are bounded by MAX_DEVICES_PER_REPLICA"),
        data: &data,
        socket: &paths.socket(),
        checkpoint_dir: &paths.checkpoints.inside,
        resume_from: paths.resume.as_ref().map(|place| place.inside.as_path()),
        metrics: &paths.metrics.inside,
        log_dir: &paths.log_dir.inside,
        visibility: &host.devices.visibility(&desired.placement.devices),
        node: &BTreeMap::new(),
    })
    .map_err(|e| e.to_string())?;
    for note in &environment.notes {
        info!(job = %desired.job, %rank, "{note}");
    }
    let container = match inside {
        Some(inside) => {
            let mut container = container(host, start, inside, &paths, rank).await?;
            let hosts = hosts::mount(host, desired, &key, &data, &container)
                .await
                .map_err(|e| format!("cannot write the container's /etc/hosts: {e}"))?;
            container.mounts.extend(hosts);
            Some(Box::new(container))
        }
        None => None,
    };
    Ok(TaskSpec {
        key,
        node: host.node.clone(),
        argv: desired.spec.argv(),
        environment: environment.variables,
        working_dir: working_dir(&desired.spec),
        stop_signal: desired.spec.stop_signal,
        container,
    })
}

async fn container(
    host: &Host,
    start: &Start,
    inside: &Inside,
    paths: &TaskPaths,
    rank: Rank,
) -> Result<Container, String> {
    let desired = &start.record.desired;
    let spec = &desired.spec;
    let docker = host.docker.as_ref().ok_or_else(|| RuntimeError::NoEngine.to_string())?;
    let own = paths.clone();
    let made = blocking(move || own.make().map_err(|e| e.to_string())).await.flatten();
    made.map_err(|e| format!("cannot make what the container of rank {rank} mounts: {e}"))?;
    let ranks = task_ranks(desired);
    let name = |rank| container_name(desired, rank, docker.instance());
    let first = ranks.first().copied().filter(|first| *first != rank);
    let mounts = start.record.mounts.iter().cloned().chain(paths.mounts(inside));
    Ok(Container {
        name: name(rank),
        image: inside.image.clone(),
        image_name: spec.image.clone().unwrap_or_default(),
        entrypoint: spec.entrypoint.clone(),
        command: spec.command.clone(),
        working_dir: spec.working_dir.clone(),
        mounts: mounts.collect(),
        options: ContainerOptions {
            extra_hosts: names::extra_hosts(desired, &start.rendezvous),
            ..spec.container.clone()
        },
        limits: spec.limits.clone(),
        gpus: gpus(host, desired),
        gpu_injection: docker.reached().map_err(|e| e.to_string())?.info.gpu_injection,
        gang: desired.node_count > 1,
        stop_grace: Some(spec.stop_grace),
        cluster: start.cluster.clone(),
        ipc_of: first.map(name),
    })
}

/// The job's `container_name` and the task's number in the gang; else a name that no other generation,
/// task or agent uses.
fn container_name(desired: &DesiredReplica, rank: Rank, instance: &str) -> String {
    let number = match desired.spec.layout {
        RankLayout::PerNode => desired.placement.node_rank.to_string(),
        RankLayout::PerGpu => rank.to_string(),
    };
    match &desired.spec.container.container_name {
        Some(base) => format!("{base}-{number}"),
        None => {
            let instance: String = instance.chars().filter(char::is_ascii_alphanumeric).take(6).collect();
            format!("convoke-{}-g{}-{number}-{instance}", desired.job, desired.generation)
        }
    }
}

/// The GPUs among the replica's devices.
fn gpus(host: &Host, desired: &DesiredReplica) -> Vec<DeviceId> {
    let inventory = host.devices.inventory();
    let is_gpu = |id: &&DeviceId| inventory.iter().any(|d| d.id == **id && d.kind == DeviceKind::Gpu);
    desired.placement.devices.iter().filter(is_gpu).cloned().collect()
}

fn failed(status: ExitStatus, message: String) -> TaskExit {
    TaskExit { message: Some(message), ..TaskExit::new(status, now()) }
}

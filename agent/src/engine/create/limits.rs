//! What a container may use: CPUs, memory, processes, ulimits, shared memory, and whose IPC it is in.

use bollard::models::{HostConfig, ResourcesUlimits};
use convoke_model::Ulimit;

use super::mounts::wants_fabric;
use super::{Context, Node};
use crate::runtime::Container;

/// Enough for NCCL and for the data loaders of eight ranks; what is not used takes no memory.
const SHM_SIZE: u64 = 16 << 30;
const UNLIMITED: Ulimit = Ulimit { soft: -1, hard: -1 };
const MEMLOCK: &str = "memlock";

pub(super) fn fill(
    host: &mut HostConfig,
    container: &Container,
    context: &Context<'_>,
    notes: &mut Vec<String>,
) {
    let limits = &container.limits;
    host.nano_cpus = limits.milli_cpus.map(|milli| signed(milli.saturating_mul(1_000_000)));
    host.memory = limits.memory.map(signed);
    // Left out, a container may swap as much again, and a task at its limit crawls instead of failing.
    host.memory_swap = host.memory;
    host.pids_limit = limits.pids.map(signed);
    host.ipc_mode = Some(ipc_mode(container));
    host.shm_size = shm_size(container, context.node, notes);
    let ulimits = ulimits(container, context, notes);
    host.ulimits = (!ulimits.is_empty()).then_some(ulimits);
}

/// The tasks of one job on one node share one IPC namespace of the job's own: without it NCCL falls
/// from NVLink to sockets, and says nothing.
fn ipc_mode(container: &Container) -> String {
    match (container.options.ipc.as_deref(), &container.ipc_of) {
        (Some(word), _) if !matches!(word, "" | "shareable") => word.to_owned(),
        (_, Some(first)) => format!("container:{first}"),
        (_, None) => "shareable".to_owned(),
    }
}

/// `/dev/shm` belongs to the IPC namespace: only who makes one can size it.
fn shm_size(container: &Container, node: &Node, notes: &mut Vec<String>) -> Option<i64> {
    let given = container.options.shm_size;
    match container.options.ipc.as_deref() {
        Some("host") => {
            if given.is_some() {
                notes.push("shm_size has no effect with ipc: host: /dev/shm is the node's own".to_owned());
            }
            None
        }
        None | Some("" | "shareable") if container.ipc_of.is_some() => None,
        _ => {
            given.or_else(|| (!container.gpus.is_empty()).then(|| SHM_SIZE.min(node.memory / 2))).map(signed)
        }
    }
}

fn ulimits(container: &Container, context: &Context<'_>, notes: &mut Vec<String>) -> Vec<ResourcesUlimits> {
    let mut wanted = container.options.ulimits.clone();
    // RDMA pins the memory that it sends from.
    let pins = !container.gpus.is_empty() || (context.node.infiniband && wants_fabric(container));
    if pins {
        wanted.entry(MEMLOCK.to_owned()).or_insert(UNLIMITED);
    }
    let mut ulimits = Vec::new();
    for (name, Ulimit { soft, hard }) in wanted {
        if context.refused.refuses(&name, hard) {
            let limit = if hard < 0 { "unlimited".to_owned() } else { hard.to_string() };
            notes.push(format!(
                "ulimit {name} ({limit}) is left out: this node's engine may not set it; raise its own (systemd: \
                 Limit{}=infinity for the docker service)",
                name.to_uppercase()
            ));
        } else {
            ulimits.push(ResourcesUlimits { name: Some(name), soft: Some(soft), hard: Some(hard) });
        }
    }
    ulimits
}

fn signed(value: u64) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

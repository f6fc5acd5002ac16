//! The contracts of frameworks that do not read torch's variables.

use std::net::SocketAddr;

use convoke_model::Rendezvous;

use super::{Position, Variables, set};

/// The kernel refuses a variable of 128 KiB or more (`MAX_ARG_STRLEN`).
const MAX_VARIABLE: usize = 120 * 1024;

/// TensorFlow's `TF_CONFIG`: one worker per task, each on the port that was held for it. `None`
/// when it would be too long for a variable.
pub(super) fn tf_config(rendezvous: &Rendezvous, task: usize) -> Option<String> {
    let workers: Vec<String> =
        rendezvous.peers.iter().map(|peer| SocketAddr::new(peer.address, peer.port).to_string()).collect();
    let config = serde_json::json!({
        "cluster": { "worker": workers },
        "task": { "type": "worker", "index": task },
    });
    Some(config.to_string()).filter(|text| text.len() < MAX_VARIABLE)
}

/// `jax.distributed.initialize()` recognises Open MPI's variables and takes the ranks from them.
/// The coordinator's address comes from its own variable; a JAX that does not know that one makes
/// it from Open MPI's: the first address, and port 61440 + (job id / 4096) % 4096.
pub(super) fn jax(rendezvous: &Rendezvous, position: &Position) -> Variables {
    let master = SocketAddr::new(rendezvous.master_addr, rendezvous.master_port);
    let job_id = u32::from(master.port() % 4096) * 4096;
    let scheme = if master.is_ipv4() { "tcp" } else { "tcp6" };
    let mut variables = Variables::new();
    let mut add = |name, value| set(&mut variables, name, value);
    add("JAX_COORDINATOR_ADDRESS", master.to_string());
    add("OMPI_MCA_orte_hnp_uri", format!("{job_id}.0;{scheme}://{master}"));
    // A task is one process to JAX, however many devices it drives.
    add("OMPI_COMM_WORLD_SIZE", rendezvous.peers.len().to_string());
    add("OMPI_COMM_WORLD_RANK", position.task.to_string());
    add("OMPI_COMM_WORLD_LOCAL_RANK", position.local_rank.to_string());
    let local_size = if position.single { position.local_world } else { 1 };
    add("OMPI_COMM_WORLD_LOCAL_SIZE", local_size.to_string());
    variables
}

/// The value of `JAX_LOCAL_DEVICE_IDS` for the one process of a node. Without it JAX takes Open
/// MPI's local rank for the one device to use, and leaves the node's others idle.
pub(super) fn all_devices(count: usize) -> String {
    (0..count).map(|index| index.to_string()).collect::<Vec<_>>().join(",")
}

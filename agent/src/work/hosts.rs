//! The `/etc/hosts` of a gang's containers.

use std::fs;

use convoke_model::{DesiredReplica, NodeAddress};

use super::network;
use crate::blocking::blocking;
use crate::engine::create::{HOSTS, hosts_file};
use crate::files::{HostMount, HostSource};
use crate::host::Host;
use crate::runtime::{Container, TaskKey};

/// Writes it beside the task's other files; `None` where the engine's own does: for a replica alone, or
/// one that is not in the node's network, and where the job mounts one.
pub(super) async fn mount(
    host: &Host,
    desired: &DesiredReplica,
    task: &TaskKey,
    data: &NodeAddress,
    container: &Container,
) -> Result<Option<HostMount>, String> {
    let wanted = desired.node_count > 1 && network::is_the_nodes(desired);
    if !wanted || container.mounts.iter().any(|mount| mount.target == HOSTS) {
        return Ok(None);
    }
    let name = gethostname::gethostname().to_string_lossy().into_owned();
    let path = host.runtime.task_dir(task).path().join("hosts");
    let (written, address, extra) = (path.clone(), data.address, container.options.extra_hosts.clone());
    let writing = blocking(move || {
        // A host may do without one.
        let nodes = fs::read_to_string(HOSTS).unwrap_or_default();
        fs::write(written, hosts_file(&nodes, &name, address, &extra)).map_err(|e| e.to_string())
    });
    writing.await.flatten()?;
    Ok(Some(HostMount { source: HostSource::Path(path), target: HOSTS.to_owned(), read_only: false }))
}

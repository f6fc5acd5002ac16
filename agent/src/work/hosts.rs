//! The `/etc/hosts` of a gang's containers.

use std::{fs, io};

use convoke_model::{DesiredReplica, NodeAddress};

use super::network;
use crate::engine::create::{HOSTS, hosts_file};
use crate::files::{HostMount, HostSource};
use crate::host::Host;
use crate::runtime::TaskKey;

/// Writes it beside the task's other files; `None` where the engine's own does: for a replica alone, or
/// one that is not in the node's network, and where the job mounts one.
pub(super) fn mount(
    host: &Host,
    desired: &DesiredReplica,
    task: &TaskKey,
    data: &NodeAddress,
    theirs: &[HostMount],
) -> io::Result<Option<HostMount>> {
    let wanted = desired.node_count > 1 && network::is_the_nodes(desired);
    if !wanted || theirs.iter().any(|mount| mount.target == HOSTS) {
        return Ok(None);
    }
    // A host may do without one.
    let nodes = fs::read_to_string(HOSTS).unwrap_or_default();
    let name = gethostname::gethostname().to_string_lossy().into_owned();
    let text = hosts_file(&nodes, &name, data.address, &desired.spec.container.extra_hosts);
    let path = host.runtime.task_dir(task).path().join("hosts");
    fs::write(&path, text)?;
    Ok(Some(HostMount { source: HostSource::Path(path), target: HOSTS.to_owned(), read_only: false }))
}

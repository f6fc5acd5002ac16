//! Which address a replica's ranks have: the node's on the data interface, or the loopback of a network
//! of their own.

use std::net::{IpAddr, Ipv4Addr};

use convoke_model::{DesiredReplica, NodeAddress};

use crate::engine::create::Network;
use crate::host::Host;
use crate::interfaces;

/// True if the tasks are in the node's network: all processes are, and the containers of gangs.
pub(super) fn is_the_nodes(desired: &DesiredReplica) -> bool {
    desired.spec.image.is_none() || of(desired).is_host()
}

fn of(desired: &DesiredReplica) -> Network {
    Network::of_job(&desired.spec.container, desired.node_count > 1)
}

/// The address that the ranks are reached at, and its interface; without a name where it is another
/// network's.
pub fn data(host: &Host, desired: &DesiredReplica) -> Result<NodeAddress, String> {
    let spec = &desired.spec;
    if is_the_nodes(desired) {
        let chosen = interfaces::choose(&host.addresses, spec.interface.as_deref());
        return chosen.cloned().map_err(|e| e.to_string());
    }
    if desired.node_count > 1 {
        return Err(format!(
            "network_mode: {}: the replicas of a gang of {} could not reach each other; leave network_mode out",
            spec.container.network_mode.as_deref().unwrap_or_default(),
            desired.node_count
        ));
    }
    Ok(NodeAddress { interface: String::new(), address: IpAddr::V4(Ipv4Addr::LOCALHOST) })
}

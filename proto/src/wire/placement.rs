//! Placement and rendezvous.

use convoke_model::{NamedAddress, NodeRank, Peer, Rank, Rendezvous, ReplicaPlacement, is_host_name};

use super::{InvalidMessage, address, all, id, invalid, optional_port, port};
use crate::v1;

impl From<ReplicaPlacement> for v1::Replica {
    fn from(replica: ReplicaPlacement) -> Self {
        Self {
            node: replica.node.into(),
            node_rank: replica.node_rank.0,
            devices: replica.devices.into_iter().map(Into::into).collect(),
            first_rank: replica.first_rank.0,
            local_world: replica.local_world,
            tasks: Vec::new(),
            progress: None,
            conditions: Vec::new(),
        }
    }
}

impl TryFrom<v1::Replica> for ReplicaPlacement {
    type Error = InvalidMessage;
    fn try_from(wire: v1::Replica) -> Result<Self, InvalidMessage> {
        Ok(Self {
            node: id(&wire.node, "replica.node")?,
            node_rank: NodeRank(wire.node_rank),
            devices: wire.devices.iter().map(|d| id(d, "replica.devices")).collect::<Result<_, _>>()?,
            first_rank: Rank(wire.first_rank),
            local_world: wire.local_world,
        })
    }
}

impl From<Rendezvous> for v1::Rendezvous {
    fn from(rendezvous: Rendezvous) -> Self {
        Self {
            master_addr: rendezvous.master_addr.to_string(),
            master_port: rendezvous.master_port.into(),
            world_size: rendezvous.world_size,
            peers: rendezvous.peers.into_iter().map(Into::into).collect(),
            services: rendezvous.services.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Rendezvous> for Rendezvous {
    type Error = InvalidMessage;
    fn try_from(wire: v1::Rendezvous) -> Result<Self, InvalidMessage> {
        Ok(Self {
            master_addr: address(&wire.master_addr, "rendezvous.master_addr")?,
            master_port: port(wire.master_port, "rendezvous.master_port")?,
            world_size: wire.world_size,
            peers: all(wire.peers)?,
            services: all(wire.services)?,
        })
    }
}

impl From<NamedAddress> for v1::NamedAddress {
    fn from(named: NamedAddress) -> Self {
        Self { name: named.name, address: named.address.to_string() }
    }
}

impl TryFrom<v1::NamedAddress> for NamedAddress {
    type Error = InvalidMessage;
    fn try_from(wire: v1::NamedAddress) -> Result<Self, InvalidMessage> {
        if !is_host_name(&wire.name) {
            return Err(invalid("services.name", format!("\"{}\" cannot be the name of a host", wire.name)));
        }
        Ok(Self { address: address(&wire.address, "services.address")?, name: wire.name })
    }
}

impl From<Peer> for v1::Peer {
    fn from(peer: Peer) -> Self {
        Self {
            node: peer.node.into(),
            node_rank: peer.node_rank.0,
            rank: peer.rank.0,
            address: peer.address.to_string(),
            port: peer.port.into(),
            probe_port: peer.probe_port.unwrap_or(0).into(),
        }
    }
}

impl TryFrom<v1::Peer> for Peer {
    type Error = InvalidMessage;
    fn try_from(wire: v1::Peer) -> Result<Self, InvalidMessage> {
        Ok(Self {
            node: id(&wire.node, "peer.node")?,
            node_rank: NodeRank(wire.node_rank),
            rank: Rank(wire.rank),
            address: address(&wire.address, "peer.address")?,
            port: port(wire.port, "peer.port")?,
            probe_port: optional_port(wire.probe_port, "peer.probe_port")?,
        })
    }
}

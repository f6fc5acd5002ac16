//! Where a generation's ranks run, and how they find each other.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{DeviceId, JobSpec, NodeId, NodeRank, Rank, RankLayout};

/// A whole gang's placement: replicas in node-rank order, ranks contiguous over them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Placement {
    pub replicas: Vec<ReplicaPlacement>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaPlacement {
    pub node: NodeId,
    pub node_rank: NodeRank,
    /// In local-rank order.
    pub devices: Vec<DeviceId>,
    /// The first of this replica's ranks.
    pub first_rank: Rank,
    /// Ranks (processes) of this replica.
    pub local_world: u32,
}

impl Placement {
    /// Processes in the gang.
    pub fn world_size(&self) -> u32 {
        self.replicas.iter().map(|r| r.local_world).sum()
    }

    /// The replica that runs `rank`.
    pub fn replica_of(&self, rank: Rank) -> Option<&ReplicaPlacement> {
        self.replicas.iter().find(|r| (r.first_rank.0..r.first_rank.0 + r.local_world).contains(&rank.0))
    }
}

impl ReplicaPlacement {
    /// Number of tasks (processes that an agent starts) of this replica: one per device with
    /// `per-gpu`, else one.
    pub fn task_count(&self, spec: &JobSpec) -> u32 {
        match spec.layout {
            RankLayout::PerNode => 1,
            RankLayout::PerGpu => u32::try_from(self.devices.len())
                .expect("device lists are bounded by MAX_DEVICES_PER_REPLICA"),
        }
    }
}

impl JobSpec {
    /// Processes that a replica with `devices` devices contributes to the world.
    pub fn local_world(&self, devices: u32) -> u32 {
        match self.layout {
            RankLayout::PerGpu => devices,
            // A task without devices is a process all the same.
            RankLayout::PerNode => self.procs_per_task.unwrap_or(devices.max(1)),
        }
    }
}

/// What every task of a released generation is told: who the others are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendezvous {
    /// Address of node rank 0 on the data interface.
    pub master_addr: IpAddr,
    /// A port that node rank 0's agent held until the start.
    pub master_port: u16,
    pub world_size: u32,
    /// One per task of the gang, in rank order.
    pub peers: Vec<Peer>,
    /// Where the other services of the project were when this generation was released; each name once.
    #[serde(default)]
    pub services: Vec<NamedAddress>,
}

/// A name, and the address of the node of node rank 0 of the service that has it. A loopback address is the
/// node's that looks, whose containers may have networks of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedAddress {
    pub name: String,
    pub address: IpAddr,
}

/// One task of the gang, as the others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub node: NodeId,
    pub node_rank: NodeRank,
    /// The task's (first) rank.
    pub rank: Rank,
    pub address: IpAddr,
    /// A port held for this task alone, for frameworks in which every worker listens.
    pub port: u16,
    /// Where its node answers reachability probes until its replica is over.
    #[serde(default)]
    pub probe_port: Option<u16>,
}

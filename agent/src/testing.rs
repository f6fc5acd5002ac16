//! Values that several unit tests start from.

use convoke_model::*;

/// A job of one rank per device that runs `true`.
pub(crate) fn spec() -> JobSpec {
    JobSpec {
        layout: RankLayout::PerGpu,
        ..JobSpec::processes(JobName::new("j").unwrap(), vec!["true".into()])
    }
}

/// A replica on node rank `node_rank` with one rank per device.
pub(crate) fn desired_replica(
    job: &str,
    generation: u64,
    node_rank: u32,
    devices: &[&str],
) -> DesiredReplica {
    let local_world = u32::try_from(devices.len()).unwrap();
    DesiredReplica {
        job: JobId::new(job).unwrap(),
        generation: Generation(generation),
        spec: spec(),
        placement: ReplicaPlacement {
            node: NodeId::new("n").unwrap(),
            node_rank: NodeRank(node_rank),
            devices: devices.iter().map(|d| DeviceId::new(d).unwrap()).collect(),
            first_rank: Rank(node_rank * local_world),
            local_world,
        },
        world_size: local_world * (node_rank + 1),
        node_count: node_rank + 1,
        goal: ReplicaGoal::Prepared,
        resume_from: None,
        predecessors: Vec::new(),
    }
}

/// A rendezvous of the replica alone.
pub(crate) fn rendezvous(replica: &DesiredReplica) -> Rendezvous {
    let placement = &replica.placement;
    let peers = (0..placement.local_world)
        .map(|i| Peer {
            node: placement.node.clone(),
            node_rank: placement.node_rank,
            rank: Rank(placement.first_rank.0 + i),
            address: [127, 0, 0, 1].into(),
            port: 20_000 + u16::try_from(i).unwrap(),
            probe_port: None,
        })
        .collect();
    Rendezvous {
        master_addr: [127, 0, 0, 1].into(),
        master_port: 19_999,
        world_size: replica.world_size,
        peers,
        services: Vec::new(),
    }
}

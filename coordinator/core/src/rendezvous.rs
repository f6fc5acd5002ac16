//! How the ranks of a generation find each other, from what every agent holds ready.

use convoke_model::{NodeId, NodeRank, Peer, Rank, Rendezvous, ReplicaPhase, ReplicaPlacement};

use crate::Job;
use crate::gang::Member;

/// How the ranks find each other, from what every agent holds; the error is a node that holds too
/// little.
pub(crate) fn rendezvous(job: &Job, members: &[Member<'_>]) -> Result<Rendezvous, NodeId> {
    let mut peers = Vec::new();
    let mut master = None;
    for member in members {
        let placement = member.placement;
        let Some(ReplicaPhase::Ready { address, master_port, task_ports, probe_port, .. }) = member.phase()
        else {
            return Err(placement.node.clone());
        };
        let tasks = placement.task_count(&job.spec);
        if task_ports.len() < tasks as usize || *master_port == 0 || task_ports.contains(&0) {
            return Err(placement.node.clone());
        }
        master.get_or_insert((*address, *master_port));
        let ranks = task_ranks(placement, tasks);
        peers.extend(ranks.zip(task_ports).map(|(rank, &port)| Peer {
            node: placement.node.clone(),
            node_rank: placement.node_rank,
            rank,
            address: *address,
            port,
            probe_port: *probe_port,
        }));
    }
    let (master_addr, master_port) = master.expect("a gang has at least one replica");
    let world_size = members.iter().map(|m| m.placement.local_world).sum();
    Ok(Rendezvous { master_addr, master_port, world_size, peers, services: Vec::new() })
}

/// The first rank of each task of a replica.
pub(crate) fn task_ranks(placement: &ReplicaPlacement, tasks: u32) -> impl Iterator<Item = Rank> {
    let first = placement.first_rank.0;
    (0..tasks).map(move |task| Rank(first + task))
}

/// True if the ports that a ready replica holds now are those that the others were told.
pub(crate) fn meets(job: &Job, member: &Member<'_>, told: &Rendezvous) -> bool {
    let Some(ReplicaPhase::Ready { address, master_port, task_ports, .. }) = member.phase() else {
        return true;
    };
    let is_master = member.placement.node_rank == NodeRank(0);
    if is_master && (told.master_addr, told.master_port) != (*address, *master_port) {
        return false;
    }
    let mine = told.peers.iter().filter(|peer| peer.node_rank == member.placement.node_rank);
    let told_ports: Vec<u16> = mine.map(|peer| peer.port).collect();
    let tasks = member.placement.task_count(&job.spec) as usize;
    task_ports.get(..tasks) == Some(&told_ports[..])
}

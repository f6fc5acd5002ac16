//! Whether the ranks of a gang ever meet: seen from node rank 0, whose ports the others come to.
//!
//! A script that does not call its framework's initialisation trains alone on every node, and nothing
//! fails: only the missing connections show it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use convoke_model::{NodeId, NodeRank, Rendezvous};
use procfs::net::TcpState;
use tokio::time::{Instant, sleep};

use crate::conditions::Conditions;

/// A rendezvous is held open as long as the gang lives, so that looking seldom is enough.
const LOOK: Duration = Duration::from_secs(2);

/// The condition's name.
const NEVER_MET: &str = "NeverMet";

/// One of the host's TCP sockets.
#[derive(Debug, Clone)]
struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    state: TcpState,
}

/// What has been seen of a rendezvous so far.
#[derive(Debug, Default)]
struct Meeting {
    listened: bool,
    came: BTreeSet<IpAddr>,
    /// Connections from this host itself, where replicas share an address.
    local: usize,
}

/// Watches the rendezvous on this host, node rank 0's, and raises a warning about `about` if it does
/// not take place within `patience`. Ends with its verdict.
pub async fn watch_meeting(rendezvous: Rendezvous, patience: Duration, warnings: Conditions, about: String) {
    let mut meeting = Meeting::default();
    let end = Instant::now() + patience;
    while Instant::now() < end {
        // Where the kernel does not say, nothing is said either.
        let Ok(Ok(sockets)) = tokio::task::spawn_blocking(sockets).await else { return };
        meeting.look(&rendezvous, &sockets);
        if meeting.missing(&rendezvous, patience).is_none() {
            return;
        }
        sleep(LOOK.min(patience)).await;
    }
    if let Some(message) = meeting.missing(&rendezvous, patience) {
        warnings.raise(NEVER_MET, &about, message);
    }
}

fn sockets() -> Result<Vec<Socket>, procfs::ProcError> {
    // A host without IPv6 has no such file.
    let six = procfs::net::tcp6().unwrap_or_default();
    let all = procfs::net::tcp()?.into_iter().chain(six);
    Ok(all.map(|s| Socket { local: s.local_address, remote: s.remote_address, state: s.state }).collect())
}

impl Meeting {
    fn look(&mut self, rendezvous: &Rendezvous, sockets: &[Socket]) {
        let own = rendezvous.master_addr;
        let mut ports = BTreeSet::from([rendezvous.master_port]);
        ports.extend(rendezvous.peers.iter().filter(|p| p.node_rank == NodeRank(0)).map(|p| p.port));
        let here = |at: &SocketAddr| ports.contains(&at.port());
        let mut local = 0;
        for socket in sockets.iter().filter(|s| here(&s.local)) {
            match socket.state {
                TcpState::Listen => self.listened = true,
                TcpState::Established => {
                    self.listened = true;
                    let from = socket.remote.ip().to_canonical();
                    self.came.insert(from);
                    local += usize::from(from == own || from.is_loopback());
                }
                _ => {}
            }
        }
        self.local = self.local.max(local);
    }

    /// What is missing, for people; `None` once somebody of every node has come.
    fn missing(&self, rendezvous: &Rendezvous, patience: Duration) -> Option<String> {
        let own = rendezvous.master_addr;
        let others: BTreeSet<(&NodeId, IpAddr)> = (rendezvous.peers.iter())
            .filter(|peer| peer.node_rank != NodeRank(0))
            .map(|peer| (&peer.node, peer.address))
            .collect();
        let absent: Vec<String> = others
            .iter()
            .filter(|(_, address)| match *address == own {
                true => self.local == 0,
                false => !self.came.contains(address),
            })
            .map(|(node, address)| format!("{node} ({address})"))
            .collect();
        if absent.is_empty() {
            return None;
        }
        let (port, waited) = (rendezvous.master_port, patience.as_secs());
        Some(match self.listened {
            false => format!(
                "nobody has listened on the rendezvous port {port} for {waited} s: each node is probably training on its \
                 own; does the script initialise its framework (torch.distributed.init_process_group, \
                 jax.distributed.initialize, MultiWorkerMirroredStrategy), or is it started without torchrun?"
            ),
            true => format!(
                "nobody has come to the rendezvous at {own}:{port} for {waited} s from {}: several independent \
                 trainings, or a script there that has not reached its framework's initialisation",
                absent.join(", ")
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use convoke_model::{Peer, Rank};

    use super::*;

    fn gang(addresses: &[&str]) -> Rendezvous {
        let peers = (0..).zip(addresses).map(|(i, address)| Peer {
            node: NodeId::new(&format!("node-{i}")).unwrap(),
            node_rank: NodeRank(i),
            rank: Rank(i),
            address: address.parse().unwrap(),
            port: 4001,
            probe_port: None,
        });
        let master_addr = addresses[0].parse().unwrap();
        Rendezvous {
            master_addr,
            master_port: 4000,
            world_size: 2,
            peers: peers.collect(),
            services: Vec::new(),
        }
    }

    fn socket(local: &str, remote: &str, state: TcpState) -> Socket {
        Socket { local: local.parse().unwrap(), remote: remote.parse().unwrap(), state }
    }

    fn missing(rendezvous: &Rendezvous, sockets: &[Socket]) -> Option<String> {
        let mut meeting = Meeting::default();
        meeting.look(rendezvous, sockets);
        meeting.missing(rendezvous, Duration::from_secs(120))
    }

    #[test]
    fn a_gang_has_met_once_every_other_node_has_come() {
        let gang = gang(&["10.0.0.1", "10.0.0.2"]);
        let listening = socket("0.0.0.0:4000", "0.0.0.0:0", TcpState::Listen);
        assert!(missing(&gang, &[]).unwrap().contains("nobody has listened on the rendezvous port 4000"));
        let alone = missing(&gang, std::slice::from_ref(&listening)).unwrap();
        assert!(alone.contains("10.0.0.1:4000") && alone.contains("node-1 (10.0.0.2)"), "{alone}");
        let other_port = socket("10.0.0.1:22", "10.0.0.2:5000", TcpState::Established);
        assert!(missing(&gang, &[listening, other_port]).is_some());
        for local in ["10.0.0.1:4000", "10.0.0.1:4001", "[::ffff:10.0.0.1]:4000"] {
            let remote = if local.starts_with('[') { "[::ffff:10.0.0.2]:5000" } else { "10.0.0.2:5000" };
            assert_eq!(missing(&gang, &[socket(local, remote, TcpState::Established)]), None, "{local}");
        }
    }

    #[test]
    fn nodes_that_share_an_address_have_met_once_anybody_came() {
        let gang = gang(&["127.0.0.1", "127.0.0.1"]);
        assert!(missing(&gang, &[]).is_some());
        let came = socket("127.0.0.1:4000", "127.0.0.1:5000", TcpState::Established);
        assert_eq!(missing(&gang, &[came]), None);
    }
}

//! Probing every other node of a gang.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use convoke_model::{NodeAddress, NodeId, Rendezvous, ReplicaKey};
use futures::stream::{self, StreamExt as _};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep, timeout};

use super::{MAX_LINE, greeting};

/// How long one attempt may take: several retransmissions of a lost SYN.
const ATTEMPT: Duration = Duration::from_secs(4);
/// How long a peer is tried in all; it listens already, so that only a network that settles needs more
/// than one attempt.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(250);
/// Connections at a time; a thousand peers take some round trips.
const AT_ONCE: usize = 64;

/// A peer that was not reached, in words for its job's user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it cannot reach node {peer} at {address} from {from}: {why}")]
pub struct Unreachable {
    pub peer: NodeId,
    pub address: IpAddr,
    pub from: String,
    pub why: String,
}

/// Connects to every other node's listener from `own`; the first peer by name that was not reached is
/// the error.
pub async fn reach(
    own: &NodeAddress,
    node: &NodeId,
    key: &ReplicaKey,
    rendezvous: &Rendezvous,
) -> Result<(), Unreachable> {
    reach_within(PATIENCE, own, node, key, rendezvous).await
}

async fn reach_within(
    patience: Duration,
    own: &NodeAddress,
    node: &NodeId,
    key: &ReplicaKey,
    rendezvous: &Rendezvous,
) -> Result<(), Unreachable> {
    let peers: BTreeMap<NodeId, SocketAddr> = rendezvous
        .peers
        .iter()
        .filter(|peer| peer.node != *node)
        .filter_map(|peer| Some((peer.node.clone(), SocketAddr::new(peer.address, peer.probe_port?))))
        .collect();
    let mut probes = Vec::new();
    for (peer, at) in peers {
        probes.push(async move {
            let tried = try_peer(patience, own.address, at, &peer, key).await;
            tried.map_err(|why| Unreachable { peer, address: at.ip(), from: name(own), why })
        });
    }
    let answers: Vec<Result<(), Unreachable>> =
        stream::iter(probes).buffer_unordered(AT_ONCE).collect().await;
    answers.into_iter().filter_map(Result::err).min_by(|a, b| a.peer.cmp(&b.peer)).map_or(Ok(()), Err)
}

fn name(own: &NodeAddress) -> String {
    match own.interface.as_str() {
        "" => own.address.to_string(),
        interface => format!("{} ({interface})", own.address),
    }
}

async fn try_peer(
    patience: Duration,
    own: IpAddr,
    peer: SocketAddr,
    node: &NodeId,
    key: &ReplicaKey,
) -> Result<(), String> {
    let end = Instant::now() + patience;
    loop {
        let failed = match timeout(ATTEMPT, ask(own, peer, key)).await {
            Ok(Ok(answer)) if answer == node.as_str() => return Ok(()),
            Ok(Ok(answer)) if answer.is_empty() => {
                "something else answers there; does the address belong to that node?".to_owned()
            }
            Ok(Ok(answer)) => format!("node {answer} answers there; two nodes announce one address"),
            Ok(Err(error)) => explain(&error),
            Err(_) => "nothing came back; a firewall that drops packets, or an interface on another network"
                .to_owned(),
        };
        if Instant::now() + PAUSE >= end {
            return Err(format!(
                "{failed}. Open the ports of /proc/sys/net/ipv4/ip_local_port_range between the nodes, or name \
                 the interface that connects them: x-convoke.interface"
            ));
        }
        sleep(PAUSE).await;
    }
}

/// The name that the listener answers with; empty if it is none of this generation's.
async fn ask(own: IpAddr, peer: SocketAddr, key: &ReplicaKey) -> io::Result<String> {
    let socket = if own.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.bind(SocketAddr::new(own, 0))?;
    let mut stream = socket.connect(peer).await?;
    let nonce = uuid::Uuid::new_v4().to_string();
    stream.write_all(format!("{} {nonce}\n", greeting(key)).as_bytes()).await?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut answer).await?;
    Ok(answer.trim_end().strip_suffix(&format!(" {nonce}")).unwrap_or_default().to_owned())
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "the connection was refused; a firewall that rejects, or the address leads to another host"
                .to_owned()
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "there is no route; the two interfaces are on different networks".to_owned()
        }
        io::ErrorKind::ConnectionReset => {
            "the connection was reset; a firewall or a proxy in between".to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::ProbeListener;
    use super::*;
    use crate::testing::{desired_replica, rendezvous};

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn own() -> NodeAddress {
        NodeAddress { interface: "lo".to_owned(), address: LOOPBACK }
    }

    async fn probe(announced: &str, answering: &str, generation_apart: u64) -> Result<(), Unreachable> {
        let replica = desired_replica("j", 1, 0, &["cpu-0"]);
        let mut key = replica.key();
        let mut told = rendezvous(&replica);
        key.generation.0 += generation_apart;
        let listener = ProbeListener::open(LOOPBACK, &NodeId::new(answering).unwrap(), &key).await.unwrap();
        told.peers[0].node = NodeId::new(announced).unwrap();
        told.peers[0].probe_port = Some(listener.port());
        reach_within(Duration::ZERO, &own(), &NodeId::new("me").unwrap(), &replica.key(), &told).await
    }

    #[tokio::test]
    async fn a_peer_that_answers_by_its_name_is_reached() {
        assert_eq!(probe("b", "b", 0).await, Ok(()));
    }

    #[tokio::test]
    async fn an_address_that_leads_to_another_node_or_generation_is_named() {
        let other = probe("b", "c", 0).await.unwrap_err().to_string();
        assert!(
            other.contains("node b at 127.0.0.1 from 127.0.0.1 (lo)") && other.contains("node c answers"),
            "{other}"
        );
        let stale = probe("b", "b", 1).await.unwrap_err();
        assert!(stale.why.contains("something else answers"), "{stale}");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_listen_is_refused_with_what_to_look_at() {
        let replica = desired_replica("j", 1, 0, &["cpu-0"]);
        let mut told = rendezvous(&replica);
        let free = std::net::TcpListener::bind((LOOPBACK, 0)).unwrap().local_addr().unwrap().port();
        told.peers[0].node = NodeId::new("b").unwrap();
        told.peers[0].probe_port = Some(free);
        let error = reach_within(Duration::ZERO, &own(), &NodeId::new("me").unwrap(), &replica.key(), &told)
            .await
            .unwrap_err();
        assert!(error.why.contains("refused") && error.why.contains("x-convoke.interface"), "{error}");
    }

    #[tokio::test]
    async fn nobody_probes_itself_or_a_peer_of_an_agent_without_a_listener() {
        let replica = desired_replica("j", 1, 0, &["cpu-0"]);
        let mut told = rendezvous(&replica);
        assert_eq!(
            reach_within(Duration::ZERO, &own(), &NodeId::new("n").unwrap(), &replica.key(), &told).await,
            Ok(())
        );
        told.peers[0].probe_port = Some(1);
        let me = told.peers[0].node.clone();
        assert_eq!(reach_within(Duration::ZERO, &own(), &me, &replica.key(), &told).await, Ok(()));
    }
}

//! Nodes with networks of their own: Linux network namespaces on one bridge.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use convoke_proto::v1;
use convoke_tests::{ClusterOptions, Job, LocalCluster, repository};

/// Two nodes' networks and this host on a bridge, which is in a namespace of its own: the host's
/// firewall (Docker's, say) does not judge what passes between the nodes. Removed when dropped.
struct Networks {
    id: String,
    subnet: [u8; 3],
}

const INTERFACE: &str = "data0";

impl Networks {
    fn new() -> Self {
        let pid = std::process::id();
        let networks =
            Self { id: format!("cvk{pid}"), subnet: [10, 254, u8::try_from(pid % 250).expect("< 250")] };
        let (bridge, host) = (networks.bridge(), networks.id.clone());
        ip(&["netns", "add", &bridge]);
        ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge"]);
        ip(&["-n", &bridge, "link", "set", "br0", "up"]);
        ip(&["link", "add", &host, "type", "veth", "peer", "name", "host", "netns", &bridge]);
        ip(&["-n", &bridge, "link", "set", "host", "master", "br0", "up"]);
        ip(&["address", "add", &format!("{}/24", networks.host()), "dev", &host]);
        ip(&["link", "set", &host, "up"]);
        for node in 0..2 {
            let (name, port) = (networks.name(node), format!("node{node}"));
            ip(&["netns", "add", &name]);
            let peer = ["peer", "name", INTERFACE, "netns", &name];
            ip(&[&["-n", &bridge, "link", "add", &port, "type", "veth"], &peer[..]].concat());
            ip(&["-n", &bridge, "link", "set", &port, "master", "br0", "up"]);
            ip(&["-n", &name, "address", "add", &format!("{}/24", networks.node(node)), "dev", INTERFACE]);
            ip(&["-n", &name, "link", "set", INTERFACE, "up"]);
            ip(&["-n", &name, "link", "set", "lo", "up"]);
        }
        networks
    }

    fn bridge(&self) -> String {
        format!("{}-bridge", self.id)
    }

    fn name(&self, node: usize) -> String {
        format!("{}-{node}", self.id)
    }

    fn at(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, last)
    }

    fn host(&self) -> Ipv4Addr {
        self.at(254)
    }

    fn node(&self, node: usize) -> Ipv4Addr {
        self.at(u8::try_from(node).expect("there are two") + 1)
    }

    /// What each node sends to the other goes to a card that nobody has, and nothing comes back.
    fn black_hole(&self, verb: &str) {
        for node in 0..2 {
            let (name, other) = (self.name(node), self.node(1 - node).to_string());
            let to = ["lladdr", "02:00:00:00:00:01", "dev", INTERFACE];
            ip(&[&["-n", &name, "neighbour", verb, &other], &to[..]].concat());
        }
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        for name in [self.bridge(), self.name(0), self.name(1)] {
            let _ = Command::new("ip").args(["netns", "delete", &name]).status();
        }
    }
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("the ip command can be started");
    assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) async fn a_gang_whose_nodes_do_not_reach_each_other_waits_by_name_and_runs_once_they_do() {
    let networks = Networks::new();
    let options = ClusterOptions {
        slots: vec![1, 1],
        address: networks.host(),
        namespaces: vec![networks.name(0), networks.name(1)],
        ..ClusterOptions::default()
    };
    let cluster = LocalCluster::start_with(options).await;
    let data = repository().join("examples/mnist/data").display().to_string();
    networks.black_hole("replace");
    let asked = Instant::now();
    let gang = Job::new("gang", ["convoke-trainer", "--data", &data, "--epochs", "1"]).gang(2, 1);
    let id = cluster.submit(&gang).await;
    let told = |job: &v1::Job| job.reason.contains("cannot reach");
    let job = cluster.wait_for(&id, "it says who does not reach whom", told).await;
    assert!(asked.elapsed() < Duration::from_secs(30), "it took {:?}", asked.elapsed());
    let (first, second) = (networks.node(0).to_string(), networks.node(1).to_string());
    for word in ["node-0", "node-1", &first, &second, INTERFACE, "firewall"] {
        assert!(job.reason.contains(word), "no \"{word}\" in: {}", job.reason);
    }
    assert_eq!(cluster.log_so_far(&id).await.map(|lines| lines.len()), Some(0), "nothing was started");

    networks.black_hole("delete");
    cluster.wait_state(&id, v1::JobState::Succeeded).await;
    let log = cluster.log(&id).await;
    assert!(log.iter().any(|line| line.text.starts_with("Epoch 1/1, Loss: ")), "{log:?}");
    cluster.finish().await;
}

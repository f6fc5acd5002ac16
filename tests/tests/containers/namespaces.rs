//! Nodes with networks of their own: Linux network namespaces on one bridge.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Two nodes' networks and this host on a bridge, which is in a namespace of its own: the host's
/// firewall (Docker's, say) does not judge what passes between the nodes. Removed when dropped.
pub(crate) struct Networks {
    id: String,
    subnet: [u8; 3],
}

/// What all of them have their addresses from.
pub(crate) const SUBNETS: &str = "10.254.0.0/16";

/// Each node's, in its namespace.
pub(crate) const INTERFACE: &str = "data0";

impl Networks {
    pub(crate) fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let (pid, made) = (std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let subnet = [10, 254, u8::try_from((pid + made) % 250).expect("less than 250")];
        let networks = Self { id: format!("cvk{pid}{made}"), subnet };
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

    pub(crate) fn name(&self, node: usize) -> String {
        format!("{}-{node}", self.id)
    }

    fn at(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, last)
    }

    pub(crate) fn host(&self) -> Ipv4Addr {
        self.at(254)
    }

    pub(crate) fn node(&self, node: usize) -> Ipv4Addr {
        self.at(u8::try_from(node).expect("there are two") + 1)
    }

    /// What nodes send to this host gets there at 75 kilobytes a second, as behind a router that keeps five seconds of
    /// it.
    pub(crate) fn slow_down(&self) {
        let (bridge, rate) = (self.bridge(), ["rate", "600kbit", "burst", "16kb", "limit", "400kb"]);
        let tc = ["netns", "exec", &bridge, "tc", "qdisc", "add", "dev", "host", "root", "tbf"];
        ip(&[&tc[..], &rate].concat());
        // It fills what a router keeps, as most do; some of this host's own choice would not.
        let reno = "echo reno > /proc/sys/net/ipv4/tcp_congestion_control";
        for node in 0..2 {
            ip(&["netns", "exec", &self.name(node), "sh", "-c", reno]);
        }
    }

    /// What each node sends to the other goes to a card that nobody has, and nothing comes back.
    pub(crate) fn black_hole(&self, verb: &str) {
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

//! What a story may choose about its cluster.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

/// The defaults are the products', but for the reconnect window.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// CPU slots of each agent; `node-0` is the first.
    pub slots: Vec<u32>,
    pub lease: Duration,
    pub reconnect_window: Duration,
    /// Agents run containers on this host's Docker Engine.
    pub containers: bool,
    /// Where the coordinator listens; beyond loopback it is loud about it.
    pub address: Ipv4Addr,
    /// The network namespace of each agent; further ones are in the host's, at loopback.
    pub namespaces: Vec<String>,
    /// The coordinator's data directory, if not one of the cluster's own.
    pub data_dir: Option<PathBuf>,
    /// Further arguments of every agent; `{node}` is its node's name.
    pub agent_args: Vec<String>,
    /// Of every agent's environment.
    pub agent_variables: Vec<(String, String)>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            slots: vec![2, 2],
            // A busy machine must not lose a node that only waits for its turn.
            lease: Duration::from_secs(60),
            reconnect_window: Duration::from_secs(60),
            containers: false,
            address: Ipv4Addr::LOCALHOST,
            namespaces: Vec::new(),
            data_dir: None,
            agent_args: Vec::new(),
            agent_variables: Vec::new(),
        }
    }
}

impl ClusterOptions {
    /// An agent for each of `slots` that runs containers.
    pub fn containers(slots: &[u32]) -> Self {
        Self { slots: slots.to_vec(), containers: true, ..Self::default() }
    }
}

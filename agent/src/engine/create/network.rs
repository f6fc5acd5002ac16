//! The network that a container is in, and what depends on it: ports, host name, hosts.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, PortBinding, PortMap};

use convoke_model::ContainerOptions;

use crate::runtime::Container;

/// Where a task's addresses and ports are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// The node's own.
    Host,
    /// One of its own behind the node's address.
    Bridge,
    None,
    /// That of the replica's first task: all of them find each other at 127.0.0.1.
    Of(String),
    /// A network of the engine's, by name.
    Named(String),
}

impl Network {
    /// The user's word; else the node's network, where the ranks' addresses are, unless the job is one
    /// replica that publishes ports: these may mean other ports of the node.
    pub fn of_job(options: &ContainerOptions, gang: bool) -> Self {
        match options.network_mode.as_deref().filter(|word| !word.is_empty()) {
            None if options.is_behind_ports(gang) => Self::Bridge,
            None | Some("host") => Self::Host,
            Some("bridge" | "default") => Self::Bridge,
            Some("none") => Self::None,
            Some(name) => Self::Named(name.to_owned()),
        }
    }

    /// The network of one of the job's containers.
    pub fn of(container: &Container) -> Self {
        match (Self::of_job(&container.options, container.gang), &container.ipc_of) {
            (Self::Bridge, Some(first)) => Self::Of(first.clone()),
            (own, _) => own,
        }
    }

    /// True if the node's interfaces, addresses and ports are the task's.
    pub fn is_host(&self) -> bool {
        *self == Self::Host
    }

    fn mode(&self) -> String {
        match self {
            Self::Host => "host".to_owned(),
            Self::Bridge => "bridge".to_owned(),
            Self::None => "none".to_owned(),
            Self::Of(first) => format!("container:{first}"),
            Self::Named(name) => name.clone(),
        }
    }
}

pub(super) fn fill(
    body: &mut ContainerCreateBody,
    host: &mut HostConfig,
    container: &Container,
    network: &Network,
    notes: &mut Vec<String>,
) {
    let options = &container.options;
    host.network_mode = Some(network.mode());
    if container.gang && !network.is_host() {
        notes.push(format!(
            "network_mode: {}: the other nodes' ranks cannot reach this task at its node's address; leave \
             network_mode out for a job of several replicas",
            network.mode()
        ));
    }
    // A container that joins another's network can have none of what follows: it is the other's.
    if matches!(network, Network::Of(_)) {
        return;
    }
    host.dns = (!options.dns.is_empty()).then(|| options.dns.clone());
    host.extra_hosts = (!options.extra_hosts.is_empty()).then(|| options.extra_hosts.clone());
    match &options.hostname {
        Some(name) if network.is_host() => notes.push(format!(
            "hostname: {name} has no effect with host networking: the task has its node's name, which its peers \
             can resolve"
        )),
        hostname => body.hostname.clone_from(hostname),
    }
    if network.is_host() {
        notes.extend(moved_ports(container));
        return;
    }
    let exposed: Vec<String> = exposed(container).collect();
    body.exposed_ports = (!exposed.is_empty()).then_some(exposed);
    host.port_bindings = (!options.ports.is_empty()).then(|| bindings(container));
}

/// What is published under another port, which host networking does not do.
fn moved_ports(container: &Container) -> Option<String> {
    let ports = container.options.ports.iter();
    let moved: Vec<String> = ports
        .filter_map(|port| {
            let published = port.published.as_ref().filter(|p| **p != port.target.to_string())?;
            Some(format!("{published}:{}", port.target))
        })
        .collect();
    (!moved.is_empty()).then(|| {
        format!(
            "ports: {} has no effect with host networking: what the task listens on is a port of its node",
            moved.join(", ")
        )
    })
}

fn exposed(container: &Container) -> impl Iterator<Item = String> {
    let published = container.options.ports.iter().map(|p| format!("{}/{}", p.target, p.protocol));
    published.chain(container.options.expose.iter().flat_map(|text| expanded(text)))
}

/// `3000-3002/udp` as the three ports that it means.
fn expanded(text: &str) -> Vec<String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => (first..=last).map(|port| format!("{port}/{protocol}")).collect(),
        // The engine names it in its refusal.
        _ => vec![text.to_owned()],
    }
}

fn bindings(container: &Container) -> PortMap {
    let mut map: PortMap = HashMap::new();
    for port in &container.options.ports {
        let binding = PortBinding { host_ip: port.host_ip.clone(), host_port: port.published.clone() };
        let key = format!("{}/{}", port.target, port.protocol);
        map.entry(key).or_default().get_or_insert_default().push(binding);
    }
    map
}

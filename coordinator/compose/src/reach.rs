//! Whether the services find on a cluster what they would find on one host: each other's ports, and the same
//! volumes. What differs is noted where somebody may count on it; nothing is refused.

use std::collections::BTreeMap;

use convoke_model::{JobSpec, MountKind, PortMapping};

use crate::cursor::Cursor;
use crate::report::Report;

/// A service as read, and where.
pub(crate) struct Placed<'a> {
    pub(crate) at: &'a Cursor<'a>,
    pub(crate) job: &'a JobSpec,
}

pub(crate) fn check(services: &[Placed<'_>], report: &mut Report) {
    for service in services.iter().filter(|service| service.job.image.is_some()) {
        let gang = service.job.replicas > 1;
        if !service.job.container.is_behind_ports(gang) {
            on_host(service, gang, report);
        } else if let Some(by) = services.iter().find(|other| needs(other.job, service.job)) {
            behind_ports(service, &by.job.service, report);
        }
    }
    volumes(services, report);
}

/// True if `one` waits for `other`, or names it in what it is started with.
fn needs(one: &JobSpec, other: &JobSpec) -> bool {
    if one.service == other.service {
        return false;
    }
    let said = one.environment.values().chain(&one.command).chain(one.entrypoint.iter().flatten());
    let mut words = said
        .flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.')));
    one.container.depends_on.contains_key(&other.service)
        || words.any(|word| other.host_names().any(|name| name == word))
}

/// In its nodes' networks it is found at the ports that it listens on, under its nodes' names.
fn on_host(service: &Placed<'_>, gang: bool, report: &mut Report) {
    let whose = if gang { "a gang is in its nodes' networks" } else { "it is in its node's network" };
    if let Some(ports) = service.at.get("ports").filter(|_| !service.job.container.ports.is_empty()) {
        ports.note(
            report,
            format!("has no effect: {whose}, where a port is the one that the container listens on"),
        );
    }
    if let Some(hostname) = service.at.get("hostname") {
        let message = format!(
            "names it for other services only: {whose}, so the container itself is called as its node is"
        );
        hostname.note(report, message);
    }
}

/// Others come in from another node, through the ports of its own.
fn behind_ports(service: &Placed<'_>, by: &str, report: &mut Report) {
    let (name, options) = (&service.job.service, &service.job.container);
    let Some(ports) = service.at.get("ports").filter(|_| !options.ports.is_empty()) else {
        let mode = service.at.get("network_mode").unwrap_or_else(|| service.at.clone());
        let message = format!(
            "\"{by}\" cannot reach \"{name}\" on the cluster: its network ends at its node; publish its ports, or leave \
             network_mode out"
        );
        mode.note(report, message);
        return;
    };
    let different: Vec<String> = options.ports.iter().filter_map(unlike_its_own).collect();
    if !different.is_empty() {
        let message = format!(
            "on the cluster other services, such as \"{by}\", reach \"{name}\" through its node: {}",
            different.join("; ")
        );
        ports.note(report, message);
    }
}

/// How the port differs from the one that other services know on one host.
fn unlike_its_own(port: &PortMapping) -> Option<String> {
    let target = port.target;
    let local = port.host_ip.as_ref().and_then(|ip| ip.parse::<std::net::IpAddr>().ok());
    match &port.published {
        _ if local.is_some_and(|ip| ip.is_loopback()) => {
            Some(format!("port {target} only from that node itself; leave the address out of it"))
        }
        None => {
            Some(format!("port {target} at one that the engine chooses; publish it as {target}:{target}"))
        }
        Some(published) if *published != target.to_string() => Some(format!("port {target} at {published}")),
        Some(_) => None,
    }
}

/// A volume is its node's: only on one host would all that mount it see the same.
fn volumes(services: &[Placed<'_>], report: &mut Report) {
    let mut users = BTreeMap::<&str, Vec<&Placed<'_>>>::new();
    for service in services {
        for mount in &service.job.container.volumes {
            if mount.kind == MountKind::Volume && !mount.source.is_empty() {
                users.entry(&mount.source).or_default().push(service);
            }
        }
    }
    for (volume, users) in users {
        let who = match users.as_slice() {
            [only] if only.job.replicas > 1 => {
                format!("the {} replicas of \"{}\"", only.job.replicas, only.job.service)
            }
            [_] => continue,
            several => {
                several.iter().map(|one| format!("\"{}\"", one.job.service)).collect::<Vec<_>>().join(" and ")
            }
        };
        let Some(at) = users.last().and_then(|last| last.at.get("volumes")) else { continue };
        at.note(
            report,
            format!(
                "volume {volume} is each node's own: on different nodes {who} do not share it; a relative path travels, or \
                 mount a file system that the nodes share"
            ),
        );
    }
}

//! The names that a container's `/etc/hosts` has beside the engine's own: those of the other services of its
//! project and of itself, and the job's `extra_hosts`, which win.

use convoke_model::{DesiredReplica, Rendezvous};

use super::network;

/// Docker's word for the node, in a network that is not the node's.
const HOST_GATEWAY: &str = "host-gateway";

/// As `NAME:ADDRESS`.
pub(super) fn extra_hosts(desired: &DesiredReplica, rendezvous: &Rendezvous) -> Vec<String> {
    let options = &desired.spec.container;
    let on_host = network::is_the_nodes(desired);
    let is_given =
        |name: &str| options.extra_hosts.iter().any(|entry| entry.split([':', '=']).next() == Some(name));
    // A node that knows itself by its loopback only is not found there from another network.
    let others = rendezvous.services.iter().map(|service| match service.address {
        at if at.is_loopback() && !on_host => (service.name.as_str(), HOST_GATEWAY.to_owned()),
        at => (service.name.as_str(), at.to_string()),
    });
    // In a network of its own the engine knows a container by its host name.
    let known = options.hostname.as_deref().filter(|_| !on_host);
    let own = desired.spec.host_names().filter(|name| Some(*name) != known);
    let named = own.map(|name| (name, rendezvous.master_addr.to_string())).chain(others);
    let added = named.filter(|(name, _)| !is_given(name)).map(|(name, at)| format!("{name}:{at}"));
    options.extra_hosts.iter().cloned().chain(added).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use std::net::IpAddr;

    use convoke_model::{NamedAddress, PortMapping};

    fn at(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    fn told(services: &[(&str, &str)], edit: impl FnOnce(&mut DesiredReplica)) -> Vec<String> {
        let mut desired = testing::desired_replica("j", 1, 0, &["cpu-0"]);
        desired.spec.service = "web".to_owned();
        desired.spec.image = Some("busybox".to_owned());
        edit(&mut desired);
        let named =
            |(name, address): &(&str, &str)| NamedAddress { name: (*name).to_owned(), address: at(address) };
        let services = services.iter().map(named).collect();
        let rendezvous =
            Rendezvous { master_addr: at("10.0.0.1"), services, ..testing::rendezvous(&desired) };
        extra_hosts(&desired, &rendezvous)
    }

    #[test]
    fn other_services_and_the_job_itself_have_names_and_the_user_s_own_win() {
        let services = [("db", "10.0.0.2"), ("cache", "fd00::3")];
        let hosts = told(&services, |desired| {
            desired.spec.container.hostname = Some("front".to_owned());
            desired.spec.container.extra_hosts = vec!["db:10.9.9.9".to_owned(), "six:::1".to_owned()];
        });
        assert_eq!(hosts, ["db:10.9.9.9", "six:::1", "web:10.0.0.1", "front:10.0.0.1", "cache:fd00::3"]);
    }

    #[test]
    fn a_container_in_a_network_of_its_own_finds_the_node_at_its_gateway() {
        let hosts = told(&[("db", "127.0.0.1"), ("far", "10.0.0.2")], |desired| {
            let port = PortMapping { host_ip: None, published: None, target: 80, protocol: "tcp".into() };
            desired.spec.container.ports.push(port);
            desired.spec.container.hostname = Some("front".to_owned());
        });
        assert_eq!(hosts, ["web:10.0.0.1", "db:host-gateway", "far:10.0.0.2"]);
        assert_eq!(told(&[("db", "127.0.0.1")], |_| ()), ["web:10.0.0.1", "db:127.0.0.1"]);
    }
}

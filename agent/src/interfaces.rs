//! The node's addresses, and which of them a job's data takes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use convoke_model::NodeAddress;

/// Name prefixes of interfaces that only this host's containers and machines can reach.
const INTERNAL: [&str; 6] = ["docker", "br-", "veth", "virbr", "cni", "cali"];

/// Why a data interface cannot be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceError {
    #[error("interface \"{wanted}\" does not exist on this node (it has {there}); name one of these")]
    Unknown { wanted: String, there: String },
    #[error(
        "{variable}={value} in the job's environment fits no interface of this node (it has {there}); correct it, or \
         leave it out: Convoke sets it for each node"
    )]
    Variable { variable: String, value: String, there: String },
    #[error("this node has no address that its peers could reach; give one with --advertise-address")]
    None,
}

/// The host's addresses, the preferred one first: the one that `towards` (the coordinator) is
/// reached from, unless the operator `advertise`s another. Loopback is among them, last unless
/// preferred. An advertised address that no interface has (behind address translation) comes with
/// an empty interface name.
pub fn addresses(towards: Option<SocketAddr>, advertise: Option<IpAddr>) -> io::Result<Vec<NodeAddress>> {
    let mut found: Vec<NodeAddress> = if_addrs::get_if_addrs()?
        .into_iter()
        .map(|interface| NodeAddress { address: interface.ip(), interface: interface.name })
        .filter(|a| !is_link_local(a.address) && !INTERNAL.iter().any(|i| a.interface.starts_with(i)))
        .collect();
    found.sort_by_key(|a| (a.address.is_loopback(), a.address.is_ipv6()));
    if let Some(preferred) = advertise.or_else(|| towards.and_then(source_towards)) {
        prefer(&mut found, preferred);
    }
    Ok(found)
}

/// The address that a job's data takes: the interface it names, else the node's preferred one.
pub fn choose<'a>(
    addresses: &'a [NodeAddress],
    wanted: Option<&str>,
) -> Result<&'a NodeAddress, InterfaceError> {
    let Some(wanted) = wanted else { return addresses.first().ok_or(InterfaceError::None) };
    addresses.iter().find(|a| a.interface == wanted).ok_or_else(|| {
        let mut there: Vec<_> =
            addresses.iter().map(|a| a.interface.as_str()).filter(|i| !i.is_empty()).collect();
        there.dedup();
        InterfaceError::Unknown { wanted: wanted.to_owned(), there: there.join(", ") }
    })
}

/// Checks the interfaces that a job's own variables name against those that this host has: with a name
/// that does not exist, NCCL and gloo fail late, and in words that do not say so.
pub fn check_variables(
    environment: &BTreeMap<String, String>,
    there: &BTreeSet<String>,
) -> Result<(), InterfaceError> {
    for (variable, meets) in VARIABLES {
        let Some(value) = environment.get(variable) else { continue };
        if !there.iter().any(|interface| meets(value, interface)) {
            let (variable, value) = (variable.to_owned(), value.clone());
            let there = there.iter().cloned().collect::<Vec<_>>().join(", ");
            return Err(InterfaceError::Variable { variable, value, there });
        }
    }
    Ok(())
}

/// The names of the host's interfaces that have an address.
pub fn names() -> io::Result<BTreeSet<String>> {
    Ok(if_addrs::get_if_addrs()?.into_iter().map(|interface| interface.name).collect())
}

/// Whether a variable's value takes an interface.
type Meets = fn(&str, &str) -> bool;

/// The variables by which users choose interfaces.
const VARIABLES: [(&str, Meets); 3] =
    [("NCCL_SOCKET_IFNAME", nccl_takes), ("GLOO_SOCKET_IFNAME", is_listed), ("TP_SOCKET_IFNAME", is_listed)];

/// NCCL's rule: a comma-separated list of prefixes; `=` before it makes them whole names, `^` before
/// that excludes them.
fn nccl_takes(value: &str, interface: &str) -> bool {
    let (exclude, value) = value.strip_prefix('^').map_or((false, value), |rest| (true, rest));
    let (exact, value) = value.strip_prefix('=').map_or((false, value), |rest| (true, rest));
    let matches =
        |name: &str| if exact { interface == name } else { interface.starts_with(name) && !name.is_empty() };
    // A port or device may follow the name.
    let listed = value.split(',').any(|name| matches(name.split(':').next().unwrap_or_default().trim()));
    listed != exclude
}

fn is_listed(value: &str, interface: &str) -> bool {
    value.split(',').any(|name| name.trim() == interface)
}

fn prefer(addresses: &mut Vec<NodeAddress>, preferred: IpAddr) {
    let known = addresses.iter().position(|a| a.address == preferred);
    let first = match known {
        Some(index) => addresses.remove(index),
        None => NodeAddress { interface: String::new(), address: preferred },
    };
    addresses.insert(0, first);
}

/// The local address that the kernel's routes choose for `peer`. Nothing is sent.
fn source_towards(peer: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if peer.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 8], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(peer).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(interface: &str, address: &str) -> NodeAddress {
        NodeAddress { interface: interface.to_owned(), address: address.parse().unwrap() }
    }

    #[test]
    fn towards_a_coordinator_on_loopback_the_preferred_address_is_loopback() {
        let found = addresses(Some("127.0.0.1:9".parse().unwrap()), None).unwrap();
        assert!(found[0].address.is_loopback() && found[0].interface == "lo", "{found:?}");
    }

    #[test]
    fn the_advertised_address_comes_first_even_if_no_interface_has_it() {
        let advertise = "192.0.2.7".parse().unwrap();
        let found = addresses(Some("127.0.0.1:9".parse().unwrap()), Some(advertise)).unwrap();
        assert_eq!(found[0], NodeAddress { interface: String::new(), address: advertise });
        assert!(found[1..].iter().any(|a| a.address.is_loopback()));
    }

    #[test]
    fn an_interface_that_a_variable_names_must_be_there_by_the_variables_own_rule() {
        let there = BTreeSet::from(["lo".to_owned(), "eth0".to_owned(), "ib0".to_owned()]);
        let check = |variable: &str, value: &str| {
            check_variables(&BTreeMap::from([(variable.to_owned(), value.to_owned())]), &there)
        };
        for value in ["eth", "=eth0", "=eth9,ib0", "^docker,lo", "^=eth0", "ib0:1"] {
            assert_eq!(check("NCCL_SOCKET_IFNAME", value), Ok(()), "{value}");
        }
        for value in ["=eth", "eth1", "^eth,lo,ib", ""] {
            assert!(check("NCCL_SOCKET_IFNAME", value).is_err(), "{value:?}");
        }
        assert_eq!(check("GLOO_SOCKET_IFNAME", "eth1,ib0"), Ok(()));
        let error = check("GLOO_SOCKET_IFNAME", "eth").unwrap_err().to_string();
        assert!(error.contains("GLOO_SOCKET_IFNAME=eth ") && error.contains("eth0, ib0, lo"), "{error}");
    }

    #[test]
    fn a_job_gets_the_interface_it_names_or_the_names_there_are() {
        let there = [node("eth0", "10.0.0.1"), node("ib0", "10.1.0.1"), node("ib0", "fd00::1")];
        assert_eq!(choose(&there, None).unwrap().interface, "eth0");
        assert_eq!(choose(&there, Some("ib0")).unwrap().address, there[1].address);
        let error = choose(&there, Some("ib1")).unwrap_err().to_string();
        assert!(error.contains("\"ib1\" does not exist") && error.contains("eth0, ib0"), "{error}");
        assert_eq!(choose(&[], None), Err(InterfaceError::None));
    }
}

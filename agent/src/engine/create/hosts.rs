//! `/etc/hosts` of a container that is in its node's network, for a gang.
//!
//! Its host name is the node's, and many hosts call themselves 127.0.1.1 or 127.0.0.1. Frameworks
//! announce what their own name resolves to (JAX's gloo listens there, and takes no other word for it),
//! so in a gang it must be the address that the peers reach.

use std::net::IpAddr;

/// Where a container finds it.
pub const HOSTS: &str = "/etc/hosts";

/// The node's own file, with the name `host` meaning `address` alone, and the job's `extra_hosts`, which
/// the engine writes into a file that this one hides.
pub fn hosts_file(nodes: &str, host: &str, address: IpAddr, extra_hosts: &[String]) -> String {
    let mut text = format!("{address}\t{host}\n");
    for line in nodes.lines() {
        let entry = line.split('#').next().unwrap_or_default();
        let mut words = entry.split_whitespace();
        let Some(at) = words.next() else { continue };
        let names: Vec<&str> = words.filter(|name| *name != host).collect();
        if !names.is_empty() {
            text += &format!("{at}\t{}\n", names.join(" "));
        }
    }
    for (name, at) in extra_hosts.iter().filter_map(|entry| entry.split_once([':', '='])) {
        // In the host's network, its gateway to the host is the host.
        let at = if at == "host-gateway" { "127.0.0.1" } else { at };
        text += &format!("{at}\t{name}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_s_name_means_the_address_that_its_peers_reach_and_nothing_else() {
        let nodes = "# a comment\n127.0.0.1 localhost\n127.0.1.1\tgpu-01.example gpu-01 # by the installer\n\
                     127.0.1.1 gpu-01\n::1 localhost ip6-localhost\n";
        let extra = ["db:10.0.0.9".to_owned(), "six=fd00::1".to_owned(), "up:host-gateway".to_owned()];
        let expected = "10.0.0.7\tgpu-01\n127.0.0.1\tlocalhost\n127.0.1.1\tgpu-01.example\n\
                        ::1\tlocalhost ip6-localhost\n10.0.0.9\tdb\nfd00::1\tsix\n127.0.0.1\tup\n";
        let file = hosts_file(nodes, "gpu-01", "10.0.0.7".parse().unwrap(), &extra);
        assert_eq!(file, expected);
    }
}

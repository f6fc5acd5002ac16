//! Ports for a generation: bound and held, not listening, until the task that will use them starts.
//!
//! A held socket is bound without SO_REUSEADDR, so nobody else can bind its port, whatever options
//! they use; and since it never listened or connected, its port is free the moment it is closed.
//! Between that and the task's own bind another process may still get the port: then the task fails
//! to bind, and the gang gets new ports.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};

/// Ports handed out last are not handed out again for a while: their tasks may not have bound them
/// yet. 4096 is far more than a node's tasks, and a seventh of the usual ephemeral range.
const REMEMBERED: usize = 4096;
/// Tries for one port. More are refused only if nearly all of the range is remembered or taken.
const TRIES: usize = 64;

/// Hands out ports of the ephemeral range.
#[derive(Debug, Default)]
pub struct Ports {
    recent: VecDeque<u16>,
}

/// One port, kept from everybody until this is dropped; then anybody can bind it at once.
#[derive(Debug)]
pub struct HeldPort {
    port: u16,
    _socket: OwnedFd,
}

impl HeldPort {
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Ports {
    /// Holds `count` ports on `address`, none of which was handed out lately.
    pub fn hold(&mut self, address: IpAddr, count: usize) -> io::Result<Vec<HeldPort>> {
        (0..count).map(|_| self.hold_one(address)).collect()
    }

    fn hold_one(&mut self, address: IpAddr) -> io::Result<HeldPort> {
        // Kept until a fresh one is found, so that the kernel does not offer it again.
        let mut rejected = Vec::new();
        for _ in 0..TRIES {
            let held = any_port(address)?;
            if !self.recent.contains(&held.port) {
                self.recent.push_back(held.port);
                if self.recent.len() > REMEMBERED {
                    self.recent.pop_front();
                }
                return Ok(held);
            }
            rejected.push(held);
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no fresh port in the ephemeral range"))
    }
}

fn any_port(address: IpAddr) -> io::Result<HeldPort> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddr::new(address, 0))?;
    let bound = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok(HeldPort { port: bound.port(), _socket: socket })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_held_port_cannot_be_bound_or_reached_and_is_free_at_once_when_dropped() {
        let mut held = Ports::default().hold(LOOPBACK, 1).unwrap();
        let address = SocketAddr::new(LOOPBACK, held[0].port());
        // The standard library's listener sets SO_REUSEADDR, as trainers do.
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        held.clear();
        TcpListener::bind(address).unwrap();
    }

    #[test]
    fn a_port_is_not_handed_out_twice_even_after_its_release() {
        let mut ports = Ports::default();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..500 {
            for held in ports.hold(LOOPBACK, 3).unwrap() {
                assert!(seen.insert(held.port()), "{} again", held.port());
            }
        }
    }

    #[test]
    fn an_address_that_is_not_this_hosts_is_an_error() {
        assert!(Ports::default().hold("192.0.2.1".parse().unwrap(), 1).is_err());
    }
}

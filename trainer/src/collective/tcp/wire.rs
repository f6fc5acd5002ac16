//! Bytes on the wire. All integers are little-endian, all frames of fixed size but the refusal.
//!
//! | connection | opens with | then |
//! |---|---|---|
//! | control: rank → rank 0 | [`Hello`] | table of ring addresses, or a refusal; then [`Frame`]s |
//! | ring: rank → next rank | [`Hello`] | operations |

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::collective::{UNIQUE_ID_BYTES, UniqueId};

const MAGIC: [u8; 8] = *b"CVKTCP01";
/// Whoever knows it belongs to this communicator.
pub(super) type Nonce = [u8; 32];

/// An address as 16 bytes of IP (IPv4 mapped) and 2 of port.
const ADDRESS: usize = 18;
const HELLO: usize = MAGIC.len() + size_of::<Nonce>() + 1 + 4 + 4 + ADDRESS;

fn put_address(address: SocketAddr) -> [u8; ADDRESS] {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut out = [0; ADDRESS];
    out[..16].copy_from_slice(&ip.octets());
    out[16..].copy_from_slice(&address.port().to_le_bytes());
    out
}

fn get_address(bytes: &[u8]) -> SocketAddr {
    let mut ip = [0; 16];
    ip.copy_from_slice(&bytes[..16]);
    SocketAddr::new(Ipv6Addr::from(ip).to_canonical(), u16::from_le_bytes([bytes[16], bytes[17]]))
}

/// The unique id: where rank 0 listens, and the nonce.
pub(super) fn make_id(root: SocketAddr, nonce: &Nonce) -> UniqueId {
    let mut id = [0; UNIQUE_ID_BYTES];
    id[..8].copy_from_slice(&MAGIC);
    id[8..26].copy_from_slice(&put_address(root));
    id[26..58].copy_from_slice(nonce);
    id
}

/// `None` if it was made by something else.
pub(super) fn read_id(id: &UniqueId) -> Option<(SocketAddr, Nonce)> {
    let mut nonce = [0; 32];
    nonce.copy_from_slice(&id[26..58]);
    id.starts_with(&MAGIC).then(|| (get_address(&id[8..26]), nonce))
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Control,
    Ring,
}

/// First bytes of every connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) purpose: Purpose,
    pub(super) rank: u32,
    pub(super) world_size: u32,
    /// Where this rank accepts its ring connection.
    pub(super) ring: SocketAddr,
}

impl Hello {
    pub(super) fn send(&self, nonce: &Nonce, mut to: &TcpStream) -> io::Result<()> {
        let mut out = Vec::with_capacity(HELLO);
        out.extend(MAGIC);
        out.extend(nonce);
        out.push(u8::from(self.purpose == Purpose::Ring));
        out.extend(self.rank.to_le_bytes());
        out.extend(self.world_size.to_le_bytes());
        out.extend(put_address(self.ring));
        to.write_all(&out)
    }

    /// `None` from a stranger, who is not answered.
    pub(super) fn receive(nonce: &Nonce, mut from: &TcpStream) -> Option<Self> {
        let mut bytes = [0; HELLO];
        // A peer's first bytes are sent with the connection; a stranger may not hold up the others.
        from.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        from.read_exact(&mut bytes).ok()?;
        let (magic, rest) = bytes.split_at(MAGIC.len());
        let (theirs, rest) = rest.split_at(nonce.len());
        let word = |at: usize| u32::from_le_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
        (magic == MAGIC && theirs == nonce).then(|| Self {
            purpose: if rest[0] == 1 { Purpose::Ring } else { Purpose::Control },
            rank: word(1),
            world_size: word(5),
            ring: get_address(&rest[9..]),
        })
    }
}

/// Rank 0's answer to a control connection.
pub(super) fn send_table(mut to: &TcpStream, table: &[SocketAddr]) -> io::Result<()> {
    let mut out = vec![1];
    out.extend(table.iter().flat_map(|&address| put_address(address)));
    to.write_all(&out)
}

/// The other answer.
pub(super) fn send_refusal(mut to: &TcpStream, why: &str) -> io::Result<()> {
    let mut out = vec![0];
    out.extend((why.len() as u32).to_le_bytes());
    out.extend(why.as_bytes());
    to.write_all(&out)
}

/// Ring addresses by rank, or why rank 0 refused.
pub(super) fn receive_table(mut from: &TcpStream, ranks: u32) -> io::Result<Result<Vec<SocketAddr>, String>> {
    let mut kind = [0];
    from.read_exact(&mut kind)?;
    if kind == [1] {
        let mut table = vec![0; ranks as usize * ADDRESS];
        from.read_exact(&mut table)?;
        return Ok(Ok(table.chunks_exact(ADDRESS).map(get_address).collect()));
    }
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    // A refusal is a sentence; more is not from rank 0.
    let mut why = vec![0; (u32::from_le_bytes(length) as usize).min(4096)];
    from.read_exact(&mut why)?;
    Ok(Err(String::from_utf8_lossy(&why).into_owned()))
}

/// On a control connection, once the ring stands. From a rank: what it saw; from rank 0: what is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// The sender leaves and owes nobody anything.
    Bye,
    Gone(u32),
    Left(u32),
    Stalled(u32),
}

impl Frame {
    pub(super) fn send(self, mut to: &TcpStream) -> io::Result<()> {
        let (kind, rank) = match self {
            Self::Bye => (0, 0),
            Self::Gone(rank) => (1, rank),
            Self::Left(rank) => (2, rank),
            Self::Stalled(rank) => (3, rank),
        };
        let [a, b, c, d] = rank.to_le_bytes();
        to.write_all(&[kind, a, b, c, d])
    }

    /// Waits at most `timeout`; an error is the end of the connection, or nonsense on it.
    pub(super) fn receive(mut from: &TcpStream, timeout: Duration) -> io::Result<Self> {
        from.set_read_timeout(Some(timeout))?;
        let mut bytes = [0; 5];
        from.read_exact(&mut bytes)?;
        let [kind, rank @ ..] = bytes;
        let rank = u32::from_le_bytes(rank);
        match kind {
            0 => Ok(Self::Bye),
            1 => Ok(Self::Gone(rank)),
            2 => Ok(Self::Left(rank)),
            3 => Ok(Self::Stalled(rank)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Waits until one of `fds` is ready; false once `deadline` has passed.
pub(super) fn wait(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|d| Timespec::try_from(d).ok());
        match poll(fds, timeout.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// The next connection, or `None` once `deadline` has passed.
pub(super) fn accept(listener: &TcpListener, deadline: Instant) -> io::Result<Option<TcpStream>> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                return Ok(Some(stream));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if !wait(&mut [PollFd::new(listener, PollFlags::IN)], Some(deadline))? {
                    return Ok(None);
                }
            }
            // The peer gave up before it was accepted: the next one.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(e) => return Err(e),
        }
    }
}

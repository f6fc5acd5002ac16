//! Collectives over TCP: a ring for the data, a star around rank 0 for bad news.
//!
//! Bootstrap as NCCL does it: rank 0 listens, its address and a nonce are the 128-byte unique id,
//! and every rank that was given those connects to rank 0 (control), says where it listens itself,
//! gets everybody's address, and connects to the next rank (ring). Every connection opens with the
//! nonce and a rank.

mod ring;
mod root;
#[cfg(test)]
mod tests;
mod wire;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rand::TryRng as _;

use self::wire::{Frame, Hello, Nonce, Purpose, accept, make_id, read_id, receive_table};
use super::{CollectiveError, ConnectError, Exchange};

/// Who we are, and how patient.
#[derive(Debug, Clone)]
pub struct Options {
    pub rank: u32,
    pub world_size: u32,
    /// This rank's address on the data interface.
    pub address: IpAddr,
    /// Names the communicator: "world" is all ranks.
    pub group: String,
    /// For all ranks to find each other.
    pub connect_timeout: Duration,
    /// A peer that moves no byte for so long is lost.
    pub timeout: Duration,
}

/// True if this id leads to a [`Ring`].
pub fn is_ring_id(id: &super::UniqueId) -> bool {
    read_id(id).is_some()
}

/// A communicator over TCP.
pub struct Ring {
    rank: u32,
    world_size: u32,
    timeout: Duration,
    /// `None` in a world of one.
    links: Option<Links>,
    /// Operations begun, to find ranks that disagree about which one this is.
    operations: u32,
    /// What an incoming piece is read into.
    scratch: Vec<u8>,
    /// What an outgoing piece is written from.
    outbox: Vec<u8>,
    /// The failure that ended this communicator.
    broken: Option<CollectiveError>,
}

struct Links {
    /// To the next rank; nonblocking.
    next: TcpStream,
    /// From the one before; nonblocking.
    previous: TcpStream,
    /// To rank 0's watch; `None` once rank 0 said bye.
    control: Option<TcpStream>,
    /// Ring addresses by rank.
    addresses: Vec<SocketAddr>,
    /// Rank 0 only: closes when the watch has told everybody.
    watch: Option<mpsc::Receiver<()>>,
}

impl Ring {
    /// Finds the other ranks; returns when the connections stand.
    pub fn connect(options: &Options, exchange: &dyn Exchange) -> Result<Self, ConnectError> {
        let Options { rank, world_size, .. } = *options;
        if rank >= world_size {
            return Err(ConnectError::NoSuchRank { rank, world_size });
        }
        let links = if world_size == 1 { None } else { Some(Links::connect(options, exchange)?) };
        Ok(Self {
            rank,
            world_size,
            timeout: options.timeout,
            links,
            operations: 0,
            scratch: Vec::new(),
            outbox: Vec::new(),
            broken: None,
        })
    }

    /// A world of one, which needs nobody.
    pub fn alone() -> Self {
        Self {
            rank: 0,
            world_size: 1,
            timeout: Duration::ZERO,
            links: None,
            operations: 0,
            scratch: Vec::new(),
            outbox: Vec::new(),
            broken: None,
        }
    }
}

impl Links {
    fn connect(options: &Options, exchange: &dyn Exchange) -> Result<Self, ConnectError> {
        let Options { rank, world_size, connect_timeout, .. } = *options;
        let deadline = Instant::now() + connect_timeout;
        let listener = listen(options.address)?;
        let watch = if rank == 0 { Some(start_root(options, exchange, deadline)?) } else { None };
        let id = exchange.fetch(&options.group, connect_timeout)?;
        let (root, nonce) = read_id(&id).ok_or(ConnectError::ForeignId)?;

        let hello = Hello { purpose: Purpose::Control, rank, world_size, ring: address_of(&listener)? };
        let control = dial("rank 0's bootstrap listener", root, deadline)?;
        let network = |source| ConnectError::Network { what: "rank 0's bootstrap", address: root, source };
        hello.send(&nonce, &control).map_err(network)?;
        // Rank 0 answers by its own deadline, which began at another time than ours.
        control.set_read_timeout(Some(connect_timeout + Duration::from_secs(5))).map_err(network)?;
        let addresses =
            receive_table(&control, world_size).map_err(network)?.map_err(ConnectError::Refused)?;

        let next = (rank + 1) % world_size;
        let previous = (rank + world_size - 1) % world_size;
        let address = addresses[next as usize];
        let network = |source| ConnectError::Network { what: "the next rank's listener", address, source };
        // All ranks were there a moment ago: the ring gets as long again.
        let deadline = Instant::now() + connect_timeout;
        let next = dial("the next rank's listener", address, deadline)?;
        Hello { purpose: Purpose::Ring, ..hello }.send(&nonce, &next).map_err(network)?;
        let previous = accept_previous(&listener, &nonce, previous, deadline, options)?;
        next.set_nonblocking(true).and_then(|()| previous.set_nonblocking(true)).map_err(network)?;
        Ok(Self { next, previous, control: Some(control), addresses, watch })
    }
}

impl Drop for Ring {
    /// Says bye, so that nobody takes a finished rank for a dead one.
    fn drop(&mut self) {
        let Some(Links { control, watch, .. }) = &mut self.links else { return };
        if let Some(control) = control {
            // Rank 0 may be gone, and then needs no goodbye.
            let _ = Frame::Bye.send(control);
        }
        if let Some(watch) = watch {
            // The process may end right after this; the watch needs a moment to pass the word on.
            let _ = watch.recv_timeout(Duration::from_secs(2));
        }
    }
}

fn listen(address: IpAddr) -> Result<TcpListener, ConnectError> {
    TcpListener::bind((address, 0)).map_err(|source| ConnectError::Listen { address, source })
}

fn address_of(listener: &TcpListener) -> Result<SocketAddr, ConnectError> {
    let failed = |source| ConnectError::Listen { address: std::net::Ipv4Addr::UNSPECIFIED.into(), source };
    listener.local_addr().map_err(failed)
}

/// Makes and publishes the unique id, and starts the thread that answers at its address.
fn start_root(
    options: &Options,
    exchange: &dyn Exchange,
    deadline: Instant,
) -> Result<mpsc::Receiver<()>, ConnectError> {
    let listener = listen(options.address)?;
    let failed = |source| ConnectError::Listen { address: options.address, source };
    let mut nonce: Nonce = [0; 32];
    rand::rngs::SysRng.try_fill_bytes(&mut nonce).map_err(|e| failed(std::io::Error::other(e)))?;
    let id = make_id(address_of(&listener)?, &nonce);
    let (ended, watch) = mpsc::sync_channel(0);
    let root = root::Root { listener, nonce, world_size: options.world_size };
    let thread = std::thread::Builder::new().name("convoke-root".to_owned());
    let run = move || {
        root.run(deadline);
        drop(ended);
    };
    thread.spawn(run).map_err(failed)?;
    exchange.publish(&options.group, &id)?;
    Ok(watch)
}

fn dial(what: &'static str, address: SocketAddr, deadline: Instant) -> Result<TcpStream, ConnectError> {
    // Zero is not a timeout that connect_timeout takes.
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let stream = TcpStream::connect_timeout(&address, left).and_then(|stream| {
        stream.set_nodelay(true)?;
        Ok(stream)
    });
    stream.map_err(|source| ConnectError::Network { what, address, source })
}

fn accept_previous(
    listener: &TcpListener,
    nonce: &Nonce,
    previous: u32,
    deadline: Instant,
    options: &Options,
) -> Result<TcpStream, ConnectError> {
    let missing =
        || ConnectError::NoPrevious { rank: options.rank, previous, after: options.connect_timeout };
    loop {
        let stream = accept(listener, deadline).ok().flatten().ok_or_else(missing)?;
        let hello = Hello::receive(nonce, &stream);
        if hello.is_some_and(|hello| hello.purpose == Purpose::Ring && hello.rank == previous) {
            return Ok(stream);
        }
    }
}

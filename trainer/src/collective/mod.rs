//! Collective operations: what the ranks of one generation do together.
//!
//! Every rank calls the same operations in the same order. Once a peer is lost, every rank that still
//! works gets an error that names it, and nothing waits without a deadline. After a failure the
//! communicator is of no more use; the next generation makes a new one.

mod exchange;
pub mod nccl;
pub mod tcp;

pub use exchange::{Exchange, ExchangeError, MemoryExchange, UNIQUE_ID_BYTES, UniqueId};

use std::net::SocketAddr;
use std::time::Duration;

use crate::Real;

/// A communicator over all ranks.
pub trait Collective<T: Real>: Send {
    fn rank(&self) -> u32;
    fn world_size(&self) -> u32;

    /// Replaces `values` by their sum over all ranks: the same bits on every rank, and the same in
    /// every run with the same world size.
    fn all_reduce_sum(&mut self, values: &mut [T]) -> Result<(), CollectiveError>;

    /// Replaces `values` by those of rank `root`.
    fn broadcast(&mut self, root: u32, values: &mut [T]) -> Result<(), CollectiveError>;

    /// Returns once every rank has called it.
    fn barrier(&mut self) -> Result<(), CollectiveError>;
}

/// Why an operation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    #[error("rank {rank} ({address}) {loss}: this generation cannot go on; see that rank's log")]
    PeerLost { rank: u32, address: SocketAddr, loss: Loss },
    #[error(
        "rank {peer} entered {theirs} where rank {rank} entered {ours}: \
         every rank must call the same operations in the same order"
    )]
    Mismatch { rank: u32, ours: String, peer: u32, theirs: String },
    #[error("there is no rank {root} to broadcast from: the world size is {world_size}")]
    NoSuchRank { root: u32, world_size: u32 },
    #[error("NCCL lost another rank ({reason}): this generation cannot go on; see the other ranks' logs")]
    Nccl { reason: String },
}

/// How a peer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    #[error("is gone: its connection closed in the middle of the work")]
    Gone,
    #[error("left while others still waited for it")]
    Left,
    #[error("has not moved a byte within {} s", .0.as_secs_f64())]
    Stalled(Duration),
}

/// Why the ranks did not find each other.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot listen on {address}; is this node's data interface up?")]
    Listen { address: std::net::IpAddr, source: std::io::Error },
    #[error("cannot exchange the unique id")]
    Exchange(#[from] ExchangeError),
    #[error("the unique id is not of this kind: do all ranks run the same build on the same --device?")]
    ForeignId,
    #[error("no way to {what} at {address}; can the nodes reach each other on the data interface?")]
    Network { what: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("refused by rank 0: {0}")]
    Refused(String),
    #[error("rank {previous} did not connect to rank {rank} within {} s", .after.as_secs_f64())]
    NoPrevious { rank: u32, previous: u32, after: Duration },
    #[error("rank {rank} of a world of {world_size}: ranks count from 0")]
    NoSuchRank { rank: u32, world_size: u32 },
    #[error(transparent)]
    Library(Box<crate::device::cuda::library::LibraryError>),
    #[error("not all other ranks came to NCCL within {} s; see their logs", .after.as_secs_f64())]
    Absent { after: Duration },
    #[error("NCCL cannot {doing} ({reason}); NCCL_DEBUG=INFO says more")]
    Nccl { doing: &'static str, reason: String },
}

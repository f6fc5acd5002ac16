//! The one policy for Convoke's gRPC connections: keep-alive, deadlines, backoff, message size.
//!
//! [`connect`] and [`connect_unix`] make client channels, [`Backoff`] paces reconnects,
//! [`is_retryable`] says whether another try may help, and [`serve`] runs a server on a listener that
//! the caller bound, until the caller says stop. What the messages mean is not known here. TLS has
//! its place in `connect` and `serve` and nowhere else.

mod backoff;
mod client;
mod server;
mod socket;

use std::time::Duration;

pub use backoff::Backoff;
pub use client::{
    ConnectError, check_url, connect, connect_counted, connect_unix, is_retryable, is_stranger,
};
pub use server::{Shutdown, ShutdownTrigger, serve, serve_unix, shutdown};
pub use socket::Sent;

/// The largest gRPC message that is sent or accepted, in bytes. Streams cut their data below it.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Bytes of a stream, and of all streams of a connection, that a sender may be ahead of its receiver:
/// enough for a gigabit over 15 milliseconds, and bounded memory for a receiver that is slow.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// The largest frame that is taken: a message of a megabyte in 16 pieces instead of 64, which saves bulk
/// a fifth of its system time. Control has connections of its own, and never waits behind one.
const FRAME: u32 = 64 << 10;

/// A silent peer is pinged this often.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// A ping without an answer for this long ends the connection. Its answer may be behind what the socket has not sent
/// yet, for as long as 9 kilobytes a second take for that.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a connection may take to come up.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

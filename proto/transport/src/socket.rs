//! The TCP sockets below connections.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that may wait in the kernel to be sent: behind more of them, on a slow link, keep-alives and what is newer
/// would wait for longer than their deadlines. It is a second at a megabit, and more than a fast link drains between
/// two turns of a busy sender.
const UNSENT: u32 = 128 << 10;

/// The policy for every socket. Without it a connection works, on a slow link until its deadlines.
pub(crate) fn tune(stream: &TcpStream) {
    // Small control messages must not wait for more data.
    let tuned = stream.set_nodelay(true);
    let tuned = tuned.and_then(|()| SockRef::from(stream).set_tcp_notsent_lowat(UNSENT));
    if let Err(error) = tuned {
        tracing::warn!(%error, "a socket does not take its options");
    }
}

/// How many bytes a channel's connections have handed to the network, all of them together.
#[derive(Debug, Clone, Default)]
pub struct Sent(Arc<AtomicU64>);

impl Sent {
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A stream that counts what it sends.
#[derive(Debug)]
pub(crate) struct Counted {
    stream: TcpStream,
    sent: Sent,
}

impl Counted {
    pub(crate) fn new(stream: TcpStream, sent: Sent) -> Self {
        tune(&stream);
        Self { stream, sent }
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = &written {
            self.sent.0.fetch_add(*n as u64, Ordering::Relaxed);
        }
        written
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, to)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, from);
        self.count(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, from);
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::os::fd::AsRawFd as _;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Asks for the bytes of a socket that the kernel has not sent yet.
    const SIOCOUTQNSD: libc::c_ulong = 0x894B;

    async fn pair() -> (Counted, Sent, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let sent = Sent::default();
        (Counted::new(stream.unwrap(), sent.clone()), sent, accepted.unwrap().0)
    }

    fn unsent(stream: &TcpStream) -> u32 {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open, and the request writes one int, which is there.
        let done = unsafe { libc::ioctl(stream.as_raw_fd(), SIOCOUTQNSD, &raw mut bytes) };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
        u32::try_from(bytes).unwrap()
    }

    #[tokio::test]
    async fn a_stream_counts_what_it_sends() {
        let (mut counted, sent, mut peer) = pair().await;
        assert!(counted.stream.nodelay().unwrap());
        counted.write_all(b"twelve bytes").await.unwrap();
        drop(counted);
        let mut came = Vec::new();
        peer.read_to_end(&mut came).await.unwrap();
        assert_eq!((came.len() as u64, came.as_slice()), (sent.bytes(), b"twelve bytes".as_slice()));
    }

    #[tokio::test]
    async fn little_waits_unsent_for_a_peer_that_does_not_read() {
        let (mut counted, sent, _peer) = pair().await;
        let chunk = [0; 64 << 10];
        // Until the kernel takes no more.
        while poll_fn(|cx| Poll::Ready(Pin::new(&mut counted).poll_write(cx, &chunk).is_ready())).await {}
        let waiting = unsent(&counted.stream);
        assert!(waiting > 0 && waiting <= 256 << 10, "{waiting} of {} bytes", sent.bytes());
    }
}

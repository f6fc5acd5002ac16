//! A connection to a port of a task, as the task itself would make it on its loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream as BlockingStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use bytes::Bytes;
use convoke_proto::v1::tunnel_frame::Frame;
use convoke_proto::{TUNNEL_FRAME_BYTES, v1};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::frames::{Broken, In, Out};

/// On one host; a listener that does not take a connection for so long hangs.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Carries bytes both ways until either side ends.
pub(super) async fn connect(pid: u32, port: u16, mut input: In, output: Out) -> Result<(), Broken> {
    let dialled = tokio::task::spawn_blocking(move || dial(pid, port)).await;
    let stream =
        dialled.map_err(io::Error::other).flatten().and_then(TcpStream::from_std).map_err(|error| {
            Broken::Refused(format!("nothing answers on port {port} inside the task: {error}"))
        })?;
    let (reader, mut writer) = stream.into_split();
    let mut sending = tokio::spawn(send(reader, output));
    loop {
        tokio::select! {
            sent = &mut sending => return sent.unwrap_or(Err(Broken::Gone)),
            frame = input.next() => match frame {
                Ok(Frame::Data(bytes)) => {
                    if writer.write_all(&bytes).await.is_err() {
                        // The task closed its side; what it said before is on its way.
                        return sending.await.unwrap_or(Err(Broken::Gone));
                    }
                }
                Ok(Frame::End(_)) => drop(writer.shutdown().await),
                Ok(_) => {}
                Err(error) => {
                    sending.abort();
                    return Err(error);
                }
            },
        }
    }
}

async fn send(mut reader: OwnedReadHalf, output: Out) -> Result<(), Broken> {
    let mut buffer = vec![0; TUNNEL_FRAME_BYTES];
    loop {
        let read = tokio::select! {
            read = reader.read(&mut buffer) => read,
            () = output.gone() => return Err(Broken::Gone),
        };
        let Ok(n @ 1..) = read else { break };
        output.data(Bytes::copy_from_slice(&buffer[..n]), Frame::Data).await?;
    }
    output.send(Frame::End(v1::TunnelEnd {})).await
}

/// Connects from within the network namespace of process `pid`. The thread that enters it ends with
/// this call; the socket stays in that namespace.
fn dial(pid: u32, port: u16) -> io::Result<BlockingStream> {
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net"))?;
    let own = std::fs::read_link("/proc/self/ns/net")?;
    let there = std::fs::read_link(format!("/proc/{pid}/ns/net"))?;
    let dial = move || {
        if own != there {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        let stream =
            BlockingStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    std::thread::spawn(dial).join().unwrap_or_else(|_| Err(io::Error::other("the dialling thread failed")))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_of_this_very_namespace_is_dialled_without_entering_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut stream = dial(std::process::id(), port).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        accepted.write_all(b"x").unwrap();
        stream.set_nonblocking(false).unwrap();
        let mut got = [0];
        stream.read_exact(&mut got).unwrap();
        drop(listener);
        assert!(dial(std::process::id(), port).is_err(), "nobody listens any more");
    }
}

//! `convoke port`: a task's ports on this machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use clap::Args;
use convoke_proto::v1::session_target::Target;
use convoke_proto::v1::tunnel_frame::Frame;
use convoke_proto::{TUNNEL_FRAME_BYTES, v1};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::channel::{self, Input, Output};
use crate::cli::failure::{Failure, exit};
use crate::cli::link::Link;
use crate::cli::names::Within;
use crate::cli::{Context, output, text};

/// Connections at a time: a browser opens six to a page.
const CONNECTIONS: usize = 128;

/// Forward ports of a running task to this machine
///
/// Listens here until Ctrl-C; what connects is carried through the coordinator to the task's own
/// loopback, wherever it runs: a dashboard or an endpoint without opening a firewall.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke port tensorboard 6006
  convoke port server 8080:80 9090
  convoke port --rank 1 train 0:8265       # any free port here")]
pub(crate) struct Port {
    /// The rank whose task it is
    #[arg(long, value_name = "N", default_value_t = 0)]
    rank: u32,

    /// Address to listen on
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,

    /// Id, name, Compose service, or unique prefix
    #[arg(value_name = "JOB")]
    job: String,

    /// The port here (0: any) and the task's; one number is both
    #[arg(value_name = "[LOCAL:]PORT", required = true, value_parser = pair)]
    ports: Vec<(u16, u16)>,

    #[command(flatten)]
    within: Within,
}

fn pair(text: &str) -> Result<(u16, u16), String> {
    let (local, remote) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().map_err(|_| format!("\"{text}\" is not a port number"));
    match (number(local)?, number(remote)?) {
        (_, 0) => Err("port 0 is nobody's; name the task's port".to_owned()),
        pair => Ok(pair),
    }
}

/// What is forwarded.
struct Forward {
    link: Arc<Link>,
    job: String,
    rank: u32,
    port: u16,
}

impl Port {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let link = context.link().await?;
        let job = self.within.scope(context)?.find_running(&link, &self.job).await?;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut listening = JoinSet::new();
        for (local, port) in self.ports {
            let at = SocketAddr::new(self.address, local);
            let listener = TcpListener::bind(at).await.map_err(|error| {
                let message = format!("cannot listen on {at}: {error}");
                Failure::new(exit::FAILED, "PORT_TAKEN", message)
                    .hint(format!("choose another: convoke port {} 0:{port}", self.job))
            })?;
            let at = listener.local_addr()?;
            if context.format.is_json() {
                output::record(
                    &json!({ "job": job.id, "rank": self.rank, "port": port, "address": at.to_string() }),
                )?;
            } else {
                let (rank, name) = (self.rank, text::job_name(&job));
                output::line(&format!("{at} is port {port} of rank {rank} of {name}; Ctrl-C ends it"))?;
            }
            let forward =
                Arc::new(Forward { link: link.clone(), job: job.id.clone(), rank: self.rank, port });
            listening.spawn(listen(listener, forward, places.clone()));
        }
        while listening.join_next().await.is_some() {}
        Ok(())
    }
}

async fn listen(listener: TcpListener, forward: Arc<Forward>, places: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                output::note(&format!("convoke: cannot accept a connection: {error}"));
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let forward = forward.clone();
        connections.spawn(async move {
            if let Err(failure) = forward.carry(stream).await {
                output::note(&format!("convoke: port {}: {}", forward.port, failure.message));
            }
            drop(place);
        });
    }
}

impl Forward {
    async fn carry(&self, stream: TcpStream) -> Result<(), Failure> {
        let target = Target::Port(v1::TunnelPort { task: None, port: self.port.into() });
        let (input, output) = channel::open(&self.link, &self.job, self.rank, target).await?;
        let (reader, writer) = stream.into_split();
        let sending = tokio::spawn(send(reader, input));
        let received = receive(output, writer).await;
        sending.abort();
        received
    }
}

async fn send(mut reader: OwnedReadHalf, input: Input) {
    let mut buffer = vec![0; TUNNEL_FRAME_BYTES];
    while let Ok(n @ 1..) = reader.read(&mut buffer).await {
        if !input.send(Frame::Data(buffer[..n].to_vec().into())).await {
            return;
        }
    }
    input.send(Frame::End(v1::TunnelEnd {})).await;
}

async fn receive(mut output: Output, mut writer: OwnedWriteHalf) -> Result<(), Failure> {
    while let Some(frame) = output.next().await? {
        match frame {
            Frame::Data(bytes) if writer.write_all(&bytes).await.is_err() => return Ok(()),
            Frame::Data(_) => {}
            _ => break,
        }
    }
    let _ = writer.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_number_is_both_ports_and_the_tasks_is_never_0() {
        assert_eq!(pair("6006"), Ok((6006, 6006)));
        assert_eq!(pair("0:80"), Ok((0, 80)));
        for bad in ["", "x", "80:0", "0", "1:2:3", "70000"] {
            assert!(pair(bad).is_err(), "{bad}");
        }
    }
}

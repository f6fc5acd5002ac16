//! Answering probes. The answer names the node, so that an address which leads to another host is
//! seen; who does not know the job's id gets none.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use convoke_model::{NodeId, ReplicaKey};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{MAX_LINE, greeting};

/// A prober sends one line at once; who takes longer is none.
const PATIENCE: Duration = Duration::from_secs(5);
/// Answers at a time: each is a few hundred bytes, and a gang of a thousand nodes asks within seconds.
const ANSWERS: usize = 64;

/// Answers one replica's probes until it is dropped.
#[derive(Debug)]
pub struct ProbeListener {
    port: u16,
    _serving: JoinSet<()>,
}

struct Answer {
    greeting: String,
    node: NodeId,
}

impl ProbeListener {
    pub async fn open(address: IpAddr, node: &NodeId, key: &ReplicaKey) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::new(address, 0)).await?;
        let port = listener.local_addr()?.port();
        let answer = Arc::new(Answer { greeting: greeting(key), node: node.clone() });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, answer));
        Ok(Self { port, _serving: serving })
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

async fn serve(listener: TcpListener, answer: Arc<Answer>) {
    let places = Arc::new(Semaphore::new(ANSWERS));
    let mut answering = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        while answering.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                answering.spawn(async move {
                    // A prober that goes away is its own affair.
                    let _ = timeout(PATIENCE, answer.give(stream)).await;
                    drop(place);
                });
            }
            // Too many open files, say: others are served meanwhile.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

impl Answer {
    async fn give(&self, mut stream: TcpStream) -> io::Result<()> {
        let (reader, mut writer) = stream.split();
        let mut line = String::new();
        BufReader::new(reader.take(MAX_LINE)).read_line(&mut line).await?;
        if let Some(nonce) = line.strip_prefix(&self.greeting).filter(|rest| rest.starts_with(' ')) {
            writer.write_all(format!("{}{nonce}", self.node).as_bytes()).await?;
        }
        Ok(())
    }
}

//! A wire between a client and the coordinator that a story can cut, or keep the answers of.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::LocalCluster;

/// Bytes that have not gone through yet when the wire is cut.
const NEVER: u64 = u64::MAX;

/// Forwards connections to the coordinator and counts what clients send.
#[derive(Debug)]
pub struct Wire {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    sent: AtomicU64,
    /// The connection that carries this byte is broken, once.
    cut_at: AtomicU64,
    /// Nothing reaches clients.
    held: watch::Sender<bool>,
}

impl Wire {
    pub async fn to(cluster: &LocalCluster) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let target = cluster.url().trim_start_matches("http://").to_owned();
        let state = Arc::new(State {
            sent: AtomicU64::new(0),
            cut_at: AtomicU64::new(NEVER),
            held: watch::Sender::new(false),
        });
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&target).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) =
                    (client.into_split(), server.into_split());
                let state = shared.clone();
                tokio::spawn(async move {
                    tokio::select! {
                        () = forward(from_client, to_server, &state, Way::There) => {}
                        () = forward(from_server, to_client, &state, Way::Back) => {}
                    }
                });
            }
        });
        Self { address, state, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Breaks the connection on which the clients' next so many bytes are reached.
    pub fn cut_after(&self, bytes: u64) {
        self.state.cut_at.store(self.sent() + bytes, Ordering::SeqCst);
    }

    /// Keeps what the coordinator answers from here on, until it is let go.
    pub fn hold_answers(&self, hold: bool) {
        self.state.held.send_replace(hold);
    }

    /// Whether it was cut since it was told to be.
    pub fn was_cut(&self) -> bool {
        self.state.cut_at.load(Ordering::SeqCst) == NEVER
    }

    /// What clients have sent so far.
    pub fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    There,
    Back,
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State, way: Way) {
    let mut held = state.held.subscribe();
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut buffer).await
        && n > 0
    {
        if way == Way::There {
            let sent = state.sent.fetch_add(n as u64, Ordering::SeqCst) + n as u64;
            let cut_at = state.cut_at.load(Ordering::SeqCst);
            if sent >= cut_at {
                state.cut_at.store(NEVER, Ordering::SeqCst);
                return;
            }
        } else if held.wait_for(|held| !held).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

//! Servers: they take their listener and their shutdown as arguments.

use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::warn;

use crate::socket::tune;
use crate::{CONNECTION_WINDOW, FRAME, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, STREAM_WINDOW};

/// How long open calls may take to end after shutdown began; streams without end must listen to
/// [`Shutdown`] themselves to be done in time.
const DRAIN: Duration = Duration::from_secs(5);

/// Tells any number of tasks that it is time to end.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Starts the shutdown when told to, or when dropped.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<bool>);

/// A pair of trigger and listener.
pub fn shutdown() -> (ShutdownTrigger, Shutdown) {
    let (tx, rx) = watch::channel(false);
    (ShutdownTrigger(tx), Shutdown(rx))
}

impl Shutdown {
    /// Returns once shutdown has begun. Cancel-safe.
    pub async fn begun(&mut self) {
        // A dropped trigger counts: nobody is left who could ask.
        let _ = self.0.wait_for(|begun| *begun).await;
    }

    /// Whether shutdown has begun.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl ShutdownTrigger {
    /// Begins the shutdown.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

/// Serves `routes` on `listener` until `shutdown` begins, then lets open calls end for a few
/// seconds.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    let incoming = TcpListenerStream::new(listener);
    let mut stop = shutdown.clone();
    let server = server().add_routes(routes).serve_with_incoming_shutdown(
        tokio_stream::StreamExt::map(incoming, |accepted| accepted.inspect(tune)),
        async move { stop.begun().await },
    );
    drained(server, shutdown).await
}

/// Serves `routes` on a Unix-domain socket.
pub async fn serve_unix(
    listener: UnixListener,
    routes: Routes,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    let mut stop = shutdown.clone();
    let incoming = UnixListenerStream::new(listener);
    let server =
        server().add_routes(routes).serve_with_incoming_shutdown(incoming, async move { stop.begun().await });
    drained(server, shutdown).await
}

fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
}

async fn drained(
    server: impl Future<Output = Result<(), tonic::transport::Error>>,
    mut shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    tokio::pin!(server);
    tokio::select! {
        ended = &mut server => return ended,
        () = shutdown.begun() => {}
    }
    match tokio::time::timeout(DRAIN, server).await {
        Ok(ended) => ended,
        Err(_) => {
            warn!(seconds = DRAIN.as_secs(), "open calls did not end in time and were cut");
            Ok(())
        }
    }
}

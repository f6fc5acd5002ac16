//! Client channels.

use std::path::{Path, PathBuf};

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tower::ServiceExt as _;

use crate::socket::{Counted, Sent};
use crate::{
    CONNECT_TIMEOUT, CONNECTION_WINDOW, FRAME, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_TIMEOUT, STREAM_WINDOW,
};

/// Why no channel could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("\"{url}\" is not a coordinator address; write it as http://host:port")]
    BadUrl { url: String },
    #[error("{url} cannot be reached; is it running, and is the address right?")]
    Unreachable {
        url: String,
        #[source]
        source: tonic::transport::Error,
    },
}

/// Connects now, within the connect timeout. Each call makes a connection of its own, so that one
/// kind of traffic cannot delay another.
pub async fn connect(url: &str) -> Result<Channel, ConnectError> {
    connect_counted(url).await.map(|(channel, _)| channel)
}

/// The same, with what tells how much of what was sent has left.
pub async fn connect_counted(url: &str) -> Result<(Channel, Sent), ConnectError> {
    let endpoint = endpoint(url)?;
    let sent = Sent::default();
    let counter = sent.clone();
    let connector = HttpConnector::new().map_response(move |io: TokioIo<TcpStream>| {
        TokioIo::new(Counted::new(io.into_inner(), counter.clone()))
    });
    let connected = endpoint.connect_with_connector(connector).await;
    let channel = connected.map_err(|source| ConnectError::Unreachable { url: url.to_owned(), source })?;
    Ok((channel, sent))
}

/// Connects to a Unix-domain socket.
pub async fn connect_unix(path: &Path) -> Result<Channel, ConnectError> {
    let socket = PathBuf::from(path);
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // HTTP/2 needs an authority; a socket has none.
    policy(Endpoint::from_static("http://localhost"))
        .connect_with_connector(connector)
        .await
        .map_err(|source| ConnectError::Unreachable { url: format!("unix:{}", path.display()), source })
}

fn endpoint(url: &str) -> Result<Endpoint, ConnectError> {
    let bad = || ConnectError::BadUrl { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| bad())?;
    if uri.scheme_str() != Some("http") || uri.host().is_none() || uri.port_u16().is_none() {
        return Err(bad());
    }
    Ok(policy(Endpoint::from(uri)))
}

fn policy(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// Checks that a coordinator's address is one, without dialling it.
pub fn check_url(url: &str) -> Result<(), ConnectError> {
    endpoint(url).map(|_| ())
}

/// Whether a first call failed because what answers there speaks another protocol, or serves none of this one's calls.
pub fn is_stranger(status: &Status) -> bool {
    let protocol = |error: &(dyn std::error::Error + 'static)| {
        // Found here in what was said; not a connection that broke, nor what a coordinator said on purpose.
        error.downcast_ref::<h2::Error>().is_some_and(h2::Error::is_library)
    };
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if protocol(error) {
            return true;
        }
        source = error.source();
    }
    status.code() == Code::Unimplemented
}

/// Whether the same call may succeed later without anyone changing anything. A connection that
/// breaks under a stream shows up as `Unknown` ("h2 protocol error"), so that counts too.
pub fn is_retryable(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
    )
}

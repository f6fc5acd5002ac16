//! The two directions of a tunnel.

use bytes::Bytes;
use convoke_proto::v1;
use convoke_proto::v1::tunnel_frame::Frame;
use tokio::sync::mpsc;
use tonic::Streaming;

/// The most data of one frame, by the API.
pub(super) const FRAME: usize = 64 * 1024;

/// Why a tunnel ends before its work is done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// Its operator is told.
    #[error("{0}")]
    Refused(String),
    /// Nobody is left to tell.
    #[error("the operator went away")]
    Gone,
}

/// Towards the operator.
#[derive(Clone)]
pub(super) struct Out(pub(super) mpsc::Sender<v1::TunnelFrame>);

/// From the operator.
pub(super) struct In(pub(super) Streaming<v1::TunnelFrame>);

impl Out {
    pub(super) async fn send(&self, frame: Frame) -> Result<(), Broken> {
        let frame = v1::TunnelFrame { frame: Some(frame) };
        self.0.send(frame).await.map_err(|_| Broken::Gone)
    }

    /// Sends bytes in frames that are not too large.
    pub(super) async fn data(&self, mut bytes: Bytes, to: fn(Bytes) -> Frame) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(FRAME));
            self.send(to(piece)).await?;
        }
        Ok(())
    }
}

impl In {
    /// The next frame; an end without a last frame is the operator's going away.
    pub(super) async fn next(&mut self) -> Result<Frame, Broken> {
        match self.0.message().await {
            Ok(Some(v1::TunnelFrame { frame: Some(frame) })) => Ok(frame),
            Ok(Some(_)) => Err(Broken::Refused("an empty frame came".to_owned())),
            Ok(None) | Err(_) => Err(Broken::Gone),
        }
    }
}

pub(super) fn refused(what: &str) -> impl FnOnce(bollard::errors::Error) -> Broken {
    let what = what.to_owned();
    move |error| {
        let message = match error {
            bollard::errors::Error::DockerResponseServerError { message, .. } => message,
            other => other.to_string(),
        };
        Broken::Refused(format!("{what}: {message}"))
    }
}

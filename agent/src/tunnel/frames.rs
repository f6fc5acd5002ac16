//! The two directions of a tunnel.

use bytes::Bytes;
use convoke_proto::v1::tunnel_frame::Frame;
use convoke_proto::{TUNNEL_FRAME_BYTES, v1};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Streaming;

/// Frames of a direction that wait; of 64 KiB, they hide a round trip.
pub(super) const FRAMES: usize = 4;

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
pub(super) struct In(mpsc::Receiver<Frame>);

impl Out {
    pub(super) async fn send(&self, frame: Frame) -> Result<(), Broken> {
        let frame = v1::TunnelFrame { frame: Some(frame) };
        self.0.send(frame).await.map_err(|_| Broken::Gone)
    }

    /// Resolves when the operator has gone away: nobody takes what would be sent.
    pub(super) async fn gone(&self) {
        self.0.closed().await;
    }

    /// Sends bytes in frames that are not too large.
    pub(super) async fn data(&self, mut bytes: Bytes, to: fn(Bytes) -> Frame) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(TUNNEL_FRAME_BYTES));
            self.send(to(piece)).await?;
        }
        Ok(())
    }
}

impl In {
    /// The next frame; an end without a last frame is the operator's going away.
    pub(super) async fn next(&mut self) -> Result<Frame, Broken> {
        self.0.recv().await.ok_or(Broken::Gone)
    }
}

/// Reads a call's frames to its end, whether they are still wanted or not: a call that is dropped is
/// reset, and takes along what is on its way in the other direction.
pub(super) fn read(mut call: Streaming<v1::TunnelFrame>) -> (In, JoinSet<()>) {
    let (frames, received) = mpsc::channel(FRAMES);
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        while let Ok(Some(message)) = call.message().await {
            if let Some(frame) = message.frame {
                let _ = frames.send(frame).await;
            }
        }
    });
    (In(received), reading)
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

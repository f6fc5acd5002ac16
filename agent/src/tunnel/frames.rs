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
        Broken::Refused(format!("{what}: {}", for_people(&message)))
    }
}

/// The engine's words without the ids of containers, which its operator never sees, and without what each layer of
/// its runtime puts before them.
fn for_people(message: &str) -> String {
    const ID: usize = 64;
    let is_id = |word: &&str| word.len() == ID && word.bytes().all(|b| b.is_ascii_hexdigit());
    let words: Vec<_> = message.split(' ').collect();
    let mut kept = Vec::new();
    for word in &words {
        match is_id(word) {
            // "in container 0123…" says no more than that it is one.
            true if kept.last() == Some(&"container") => kept.insert(kept.len() - 1, "the"),
            true => {}
            false => kept.push(*word),
        }
    }
    let text = kept.join(" ");
    let text = text.rsplit_once("unable to start container process: ").map_or(text.as_str(), |(_, why)| why);
    text.trim_end_matches(": unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_words_come_without_ids_and_preambles() {
        let id = "0123456789abcdef".repeat(4);
        assert_eq!(
            for_people(&format!("Could not find the file /x in container {id}")),
            "Could not find the file /x in the container"
        );
        let raw = "OCI runtime exec failed: exec failed: unable to start container process: exec: \"foo\": \
                   executable file not found in $PATH: unknown";
        assert_eq!(for_people(raw), "exec: \"foo\": executable file not found in $PATH");
        assert_eq!(for_people("no such image"), "no such image");
    }
}

//! One open session: frames to the task and frames from it.

use convoke_proto::v1;
use convoke_proto::v1::open_session_request::Message;
use convoke_proto::v1::session_target::Target;
use convoke_proto::v1::tunnel_frame::Frame;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

use crate::cli::failure::{Failure, exit};
use crate::cli::link::Link;

/// Frames that wait to be sent: a quarter of a megabyte hides a round trip.
const WAITING: usize = 4;

/// The sending half; clones send into the same session.
#[derive(Clone)]
pub(super) struct Input(mpsc::Sender<v1::OpenSessionRequest>);

/// The receiving half.
pub(super) struct Output(Streaming<v1::OpenSessionResponse>);

/// Opens a session into the task of `rank`. It is not tried again: what it does may not be repeatable.
pub(super) async fn open(
    link: &Link,
    job: &str,
    rank: u32,
    target: Target,
) -> Result<(Input, Output), Failure> {
    let (requests, sent) = mpsc::channel(WAITING);
    let open = v1::SessionTarget { job: job.to_owned(), rank, target: Some(target) };
    let input = Input(requests);
    input
        .0
        .send(v1::OpenSessionRequest { message: Some(Message::Open(open)) })
        .await
        .map_err(|_| broken())?;
    let opened = link.clients().sessions.open_session(Request::new(ReceiverStream::new(sent))).await;
    let output = opened.map_err(|status| {
        let unknown = convoke_proto::reason(&status).as_deref() == Some("UNKNOWN_TASK");
        let failure = Failure::from(status);
        if unknown {
            failure.hint(format!("`convoke inspect {job}` lists the ranks and their state"))
        } else {
            failure
        }
    })?;
    Ok((input, Output(output.into_inner())))
}

impl Input {
    /// False once the session is over.
    pub(super) async fn send(&self, frame: Frame) -> bool {
        let frame = v1::TunnelFrame { frame: Some(frame) };
        self.0.send(v1::OpenSessionRequest { message: Some(Message::Frame(frame)) }).await.is_ok()
    }
}

impl Output {
    /// The next frame; `None` at the end. What the node could not serve is an error.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Failure> {
        let Some(response) = self.0.message().await? else { return Ok(None) };
        match response.frame.and_then(|frame| frame.frame) {
            Some(Frame::Failure(message)) => Err(Failure::new(exit::REFUSED, "SESSION_FAILED", message)),
            Some(frame) => Ok(Some(frame)),
            None => Err(broken()),
        }
    }
}

pub(super) fn broken() -> Failure {
    Failure::new(exit::FAILED, "SESSION_BROKEN", "the session ended before it was done")
        .hint("its task may have ended: see `convoke ps -a`; else try again")
}

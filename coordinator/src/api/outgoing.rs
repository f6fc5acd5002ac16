//! Response streams: a task per stream, a small buffer, and a deadline for clients that stop
//! reading.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::Context;
use super::refuse;

/// Messages that wait for the client: transport buffers hold more, so two keep it busy.
const BUFFER: usize = 2;

/// How long a client may not read before its stream is cut.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) type Streaming<T> = ReceiverStream<Result<T, Status>>;

/// The sending side of a response stream.
pub(super) struct Outgoing<T> {
    messages: mpsc::Sender<Result<T, Status>>,
}

impl<T> Outgoing<T> {
    pub(super) async fn send(&self, message: T) -> Result<(), Status> {
        let sent = self.messages.send_timeout(Ok(message), PATIENCE).await;
        sent.map_err(|_| refuse::stalled("the client's reading"))
    }
}

impl<T> Outgoing<T> {
    /// Waits for as long as the client takes: a person may have stopped the output to read it.
    pub(super) async fn send_patiently(&self, message: T) -> Result<(), Status> {
        self.messages.send(Ok(message)).await.map_err(|_| refuse::stalled("the client's reading"))
    }
}

/// Runs `body` as the stream's task. It ends with its own result, when the client goes away, or when
/// the coordinator shuts down.
pub(super) fn stream<T, F>(context: &Context, body: impl FnOnce(Outgoing<T>) -> F) -> Response<Streaming<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (messages, received) = mpsc::channel(BUFFER);
    let body = body(Outgoing { messages: messages.clone() });
    let mut shutdown = context.shutdown.clone();
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = body => ended,
            () = messages.closed() => return,
            () = shutdown.begun() => Err(refuse::shutting_down()),
        };
        if let Err(status) = ended {
            let _ = messages.send_timeout(Err(status), PATIENCE).await;
        }
    });
    Response::new(ReceiverStream::new(received))
}

//! A task's lines on their way to the coordinator.
//!
//! Each stream is pushed by one future: read what is there, send it as one run, wait until it is on
//! the coordinator's disk, go on. One run in flight bounds memory and keeps the order; with 256 KiB
//! in a run even a millisecond's round trip leaves hundreds of megabytes a second. The coordinator's
//! acknowledgement tells where to go on, so the cursor on disk may lag: what is sent again is known
//! by its number.

mod feed;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use convoke_proto::v1;
use convoke_transport::Backoff;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::{debug, warn};

use crate::host::Host;
use crate::ledger;
use crate::link::will_pass;
use crate::runtime::{TaskKey, TaskStatus};
use feed::Feed;

pub use feed::Kind;

/// How often an idle stream is looked at: what a person takes for "at once".
const IDLE: Duration = Duration::from_millis(100);
/// How long an acknowledgement may take; the coordinator fsyncs first.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the cursor is written while lines flow.
const CURSOR_INTERVAL: Duration = Duration::from_secs(5);

/// Where a stream's push stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    /// Everything before it is acknowledged.
    next: u64,
    /// Nothing more is to be sent, ever.
    done: bool,
}

/// Why a push stopped before its end.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("{0}")]
    Connect(#[from] convoke_transport::ConnectError),
    #[error("{}", .0.message())]
    Status(#[from] Box<Status>),
    #[error("the coordinator closed the stream")]
    Closed,
    #[error("no acknowledgement within {} s", ACK_TIMEOUT.as_secs())]
    Silent,
    #[error("the coordinator asked to go on at line {0}")]
    Elsewhere(u64),
    #[error("the task's lines cannot be read: {0}")]
    Read(#[from] std::io::Error),
}

/// One stream of one task.
pub struct Push {
    host: Arc<Host>,
    task: TaskKey,
    kind: Kind,
    cursor: Cursor,
    written: Instant,
}

/// An open call.
struct Call {
    outbox: mpsc::Sender<v1::PushTelemetryRequest>,
    inbound: Streaming<v1::PushTelemetryResponse>,
}

impl Push {
    pub fn new(host: Arc<Host>, task: TaskKey, kind: Kind) -> Self {
        let cursor = ledger::read(&cursor_file(&host, &task, kind)).unwrap_or_else(|error| {
            warn!(%task, "{error}; its lines are offered from the first one on");
            None
        });
        Self { host, task, kind, cursor: cursor.unwrap_or_default(), written: Instant::now() }
    }

    /// Pushes until the stream's end is acknowledged, or nobody wants it.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        while !self.cursor.done {
            let before = self.cursor;
            let Err(interrupted) = self.push().await else { continue };
            match &interrupted {
                Interrupted::Status(status) if !will_pass(status) => {
                    warn!(task = %self.task, "lines were refused, trying again: {interrupted}");
                }
                Interrupted::Read(_) => warn!(task = %self.task, "{interrupted}, trying again"),
                // The session says that the coordinator is away.
                _ => debug!(task = %self.task, "push interrupted: {interrupted}"),
            }
            if self.cursor != before {
                backoff.reset();
            }
            backoff.pause().await;
        }
    }

    async fn push(&mut self) -> Result<(), Interrupted> {
        let mut feed = Feed::open(&self.host.runtime.task_dir(&self.task), self.kind, self.cursor.next);
        let mut call = None;
        loop {
            // Asked before reading: what an ended task wrote is all there. One that the runtime does
            // not know is about to be started.
            let finished = matches!(self.host.runtime.status(&self.task), Some(TaskStatus::Ended(_)));
            let runs = feed.read(finished).await?;
            if runs.is_empty() {
                tokio::time::sleep(IDLE).await;
            }
            for run in runs {
                self.deliver(&mut call, run).await?;
                if self.cursor.done {
                    return Ok(());
                }
            }
        }
    }

    async fn deliver(&mut self, call: &mut Option<Call>, run: feed::Run) -> Result<(), Interrupted> {
        let end = run.first + run.lines.len() as u64;
        let last = run.end;
        let request = self.request(run);
        let call = match call {
            Some(open) => {
                open.outbox.send(request).await.map_err(|_| Interrupted::Closed)?;
                open
            }
            None => call.insert(self.open(request).await?),
        };
        let answer = timeout(ACK_TIMEOUT, call.inbound.message()).await.map_err(|_| Interrupted::Silent)?;
        let answer = answer.map_err(Box::new)?.ok_or(Interrupted::Closed)?;
        let elsewhere = !answer.unwanted && answer.next_sequence != end;
        self.cursor = Cursor { next: answer.next_sequence, done: answer.unwanted || (last && !elsewhere) };
        if self.cursor.done || self.written.elapsed() > CURSOR_INTERVAL {
            self.write_cursor();
        }
        if elsewhere { Err(Interrupted::Elsewhere(answer.next_sequence)) } else { Ok(()) }
    }

    /// The first request goes out with the call: the coordinator may answer nothing before it.
    async fn open(&self, first: v1::PushTelemetryRequest) -> Result<Call, Interrupted> {
        let mut client = self.host.link.telemetry().await?;
        let (outbox, rx) = mpsc::channel(1);
        outbox.send(first).await.map_err(|_| Interrupted::Closed)?;
        let opening = client.push_telemetry(ReceiverStream::new(rx));
        let opened = timeout(ACK_TIMEOUT, opening).await.map_err(|_| Interrupted::Silent)?;
        Ok(Call { outbox, inbound: opened.map_err(Box::new)?.into_inner() })
    }

    fn request(&self, run: feed::Run) -> v1::PushTelemetryRequest {
        let replica = &self.task.replica;
        let stream = v1::StreamKey {
            job_id: replica.job.to_string(),
            generation: replica.generation.0,
            rank: self.task.rank.0,
            kind: self.kind.wire().into(),
        };
        v1::PushTelemetryRequest {
            stream: Some(stream),
            first_sequence: run.first,
            lines: run.lines,
            end: run.end,
        }
    }

    fn write_cursor(&mut self) {
        self.written = Instant::now();
        let file = cursor_file(&self.host, &self.task, self.kind);
        if let Err(error) = ledger::write(&file, &self.cursor) {
            warn!("{error}; some lines will be offered again after a restart");
        }
    }
}

fn cursor_file(host: &Host, task: &TaskKey, kind: Kind) -> PathBuf {
    host.home.replica_dir(&task.replica).join(format!("{}-{}.json", kind.name(), task.rank))
}

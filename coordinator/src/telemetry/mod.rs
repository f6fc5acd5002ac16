//! What jobs print and measure: stored durably, in order, once; read from any point on.
//!
//! Per job two series of segment files (`telemetry/<job>/log-*.jsonl` and `metric-*.jsonl`). One
//! thread writes; readers follow published lengths and never hold it up. A line is acknowledged
//! when it is on disk. The oldest segments go when a job's, or the whole, has too many bytes.

mod reader;
mod record;
mod recover;
mod series;
mod writer;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use convoke_model::JobId;
use tokio::sync::{mpsc, oneshot};

pub(crate) use reader::{Position, SeriesReader, tail_positions};
pub(crate) use record::{Entry, Metric, Record, StreamId, StreamKind};
pub(crate) use series::Shared;

use crate::Retention;
use writer::{Request, Writer};

/// Requests that may wait for the writer: with at most 4 MiB each, 64 MiB. Callers wait for a
/// place, so an agent's push is slowed by the disk and by nothing else.
const QUEUE: usize = 16;

/// A run of lines of one stream, in order.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) job: JobId,
    pub(crate) stream: StreamId,
    pub(crate) records: Vec<Record>,
}

/// What became of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Every line before this one is on disk.
    UpTo(u64),
    /// Its generation is too long ago.
    Unwanted,
}

/// A job's series, for reading.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    pub(crate) log: Arc<Shared>,
    pub(crate) metric: Arc<Shared>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum TelemetryError {
    #[error("{what} cannot be stored: the coordinator's disk is full; free space on it")]
    DiskFull { what: String },
    #[error("{what} cannot be read or written: {problem}")]
    Io { what: String, problem: String },
    #[error("the coordinator is shutting down")]
    Closed,
}

/// Handle to the telemetry; cheap to clone. The writer ends when the last one is gone.
#[derive(Debug, Clone)]
pub(crate) struct Telemetry {
    requests: mpsc::Sender<Request>,
}

impl Telemetry {
    /// Starts the writer on `root`; telemetry of jobs not in `known` is removed.
    pub(crate) fn start(
        root: &Path,
        retention: Retention,
        known: &BTreeSet<JobId>,
    ) -> io::Result<(Self, std::thread::JoinHandle<()>)> {
        let writer = Writer::new(root, retention, known)?;
        let (requests, received) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("telemetry".to_owned());
        let thread = thread.spawn(move || writer.run(received))?;
        Ok((Self { requests }, thread))
    }

    /// Stores a push, durably.
    pub(crate) async fn push(&self, push: Push) -> Result<Stored, TelemetryError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Push { push, reply }, answer).await
    }

    /// The job's series, empty if it has none yet.
    pub(crate) async fn feed(&self, job: &JobId) -> Result<Feed, TelemetryError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Request::Open { job: job.clone(), reply }, answer).await
    }

    /// Removes all telemetry of a job; if the queue is full, the next start does it.
    pub(crate) fn forget(&self, job: &JobId) {
        let _ = self.requests.try_send(Request::Forget { job: job.clone() });
    }

    /// Ends the writer once what was asked before is done.
    pub(crate) async fn stop(&self) {
        let _ = self.requests.send(Request::Stop).await;
    }

    async fn ask<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<Result<T, TelemetryError>>,
    ) -> Result<T, TelemetryError> {
        // Both waits end with the writer, which answers each request within a disk write.
        self.requests.send(request).await.map_err(|_| TelemetryError::Closed)?;
        answer.await.map_err(|_| TelemetryError::Closed)?
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Push { .. } => "Push",
            Self::Open { .. } => "Open",
            Self::Forget { .. } => "Forget",
            Self::Stop => "Stop",
        })
    }
}

#[cfg(test)]
mod tests;

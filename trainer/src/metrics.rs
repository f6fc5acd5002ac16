//! Reporting the values of a step: to the agent's socket, or as JSON lines in a file.
//!
//! Training never waits for it. Records for the agent queue up to a bound while the agent is away;
//! beyond it new ones are dropped, and counted in a warning. [`Metrics::flush`] waits, with a deadline.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, mpsc as blocking};
use std::time::Duration;

use convoke_proto::v1::{CommitCheckpointRequest, ReportMetricsRequest, ReportedMetrics};
use convoke_transport::is_retryable;
use tokio::sync::mpsc;

use crate::agent::{Agent, timed};

/// At 20 steps a second, over three minutes without an agent.
const QUEUE: usize = 4096;
/// Records per call.
const BATCH: usize = 256;

/// Where a trainer's values go.
pub struct Metrics(Sink);

enum Sink {
    Nowhere,
    File(File),
    Agent { agent: Arc<Agent>, queue: mpsc::Sender<Item>, dropped: u64 },
}

enum Item {
    Record(ReportedMetrics),
    /// Dropped once everything before it is reported.
    Flush(blocking::SyncSender<()>),
}

impl Metrics {
    pub fn nowhere() -> Self {
        Self(Sink::Nowhere)
    }

    /// Appends JSON lines: `{"step":10,"loss":0.31}`.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        Ok(Self(Sink::File(OpenOptions::new().create(true).append(true).open(path)?)))
    }

    pub fn to_agent(agent: Arc<Agent>) -> Self {
        let (queue, items) = mpsc::channel(QUEUE);
        agent.spawn(carry(agent.client(), items));
        Self(Sink::Agent { agent, queue, dropped: 0 })
    }

    /// True if reports are lost.
    pub fn is_nowhere(&self) -> bool {
        matches!(self.0, Sink::Nowhere)
    }

    /// Reports one step's values. Values that are not finite are left out: JSON has none.
    pub fn report(&mut self, step: u64, values: &[(&str, f64)]) -> io::Result<()> {
        let values = values.iter().filter(|(_, value)| value.is_finite());
        match &mut self.0 {
            Sink::Nowhere => Ok(()),
            Sink::File(file) => file.write_all(line(step, values).as_bytes()),
            Sink::Agent { queue, dropped, .. } => {
                let values = values.map(|&(name, value)| (name.to_owned(), value)).collect();
                if queue.try_send(Item::Record(ReportedMetrics { step, values })).is_err() {
                    *dropped += 1;
                    if dropped.is_power_of_two() {
                        tracing::warn!(dropped, "the agent takes no metrics; dropping them");
                    }
                }
                Ok(())
            }
        }
    }

    /// Tells the agent that `step-<n>/` is in place; without waiting, as the agent also looks itself.
    pub fn announce_checkpoint(&self, step: u64) {
        let Sink::Agent { agent, .. } = &self.0 else { return };
        let mut client = agent.client();
        agent.spawn(async move {
            // Long enough to store a large shard; the agent goes on by itself in any case.
            let request = timed(CommitCheckpointRequest { step }, Duration::from_secs(600));
            if let Err(status) = client.commit_checkpoint(request).await {
                tracing::debug!(step, %status, "the agent did not confirm the checkpoint");
            }
        });
    }

    /// Waits until all that was reported has arrived, at most `timeout`; false if it has not.
    pub fn flush(&mut self, timeout: Duration) -> bool {
        let Sink::Agent { queue, .. } = &self.0 else { return true };
        let (done, flushed) = blocking::sync_channel(0);
        if queue.try_send(Item::Flush(done)).is_err() {
            return false;
        }
        flushed.recv_timeout(timeout) == Err(blocking::RecvTimeoutError::Disconnected)
    }
}

fn line<'a>(step: u64, values: impl Iterator<Item = &'a (&'a str, f64)>) -> String {
    let mut record = serde_json::Map::new();
    record.insert("step".to_owned(), step.into());
    record.extend(values.map(|&(name, value)| (name.to_owned(), value.into())));
    format!("{}\n", serde_json::Value::Object(record))
}

/// Carries records to the agent until the queue closes.
async fn carry(
    mut client: convoke_proto::v1::trainer_service_client::TrainerServiceClient<tonic::transport::Channel>,
    mut items: mpsc::Receiver<Item>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while items.recv_many(&mut batch, BATCH).await > 0 {
        let (mut records, mut flushes) = (Vec::new(), Vec::new());
        for item in batch.drain(..) {
            match item {
                Item::Record(record) => records.push(record),
                Item::Flush(done) => flushes.push(done),
            }
        }
        while !records.is_empty() {
            let request = ReportMetricsRequest { records: records.clone() };
            match client.report_metrics(timed(request, Duration::from_secs(10))).await {
                Ok(_) => break,
                Err(status) if is_retryable(&status) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(status) => {
                    tracing::warn!(%status, records = records.len(), "the agent refused metrics");
                    break;
                }
            }
        }
        drop(flushes);
    }
}

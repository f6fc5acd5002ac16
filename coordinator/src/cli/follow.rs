//! Streams that survive the coordinator: when the connection breaks, the stream is opened again
//! where it was, and what comes twice is dropped by its sequence number.

use std::collections::HashMap;
use std::sync::Arc;

use convoke_proto::v1;
use convoke_transport::Backoff;
use tonic::{Response, Status, Streaming};

use super::failure::Failure;
use super::link::{Clients, Link};
use super::text;

/// A server stream that can be opened again.
pub(crate) trait Source {
    type Response: Send;
    type Item: Send;

    /// Opens the stream at the place reached so far.
    fn open(
        &self,
        clients: Clients,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Response>>, Status>> + Send;

    /// What is new in a response.
    fn accept(&mut self, response: Self::Response) -> Vec<Self::Item>;

    /// The server ended the stream without an error: is there nothing more to come?
    fn is_over(&self, clients: Clients) -> impl Future<Output = Result<bool, Status>> + Send;
}

pub(crate) struct Follow<S: Source> {
    link: Arc<Link>,
    source: S,
    stream: Option<Streaming<S::Response>>,
    backoff: Backoff,
}

impl<S: Source> Follow<S> {
    pub(crate) fn new(link: Arc<Link>, source: S) -> Self {
        Self { link, source, stream: None, backoff: Backoff::default() }
    }

    /// The next items, at least one; `None` at the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<S::Item>>, Failure> {
        loop {
            match self.step().await {
                Ok(Step::Items(items)) if items.is_empty() => {}
                Ok(Step::Items(items)) => return Ok(Some(items)),
                Ok(Step::Over) => return Ok(None),
                Err(status) => {
                    self.stream = None;
                    match convoke_proto::reason(&status).as_deref() {
                        // What came before kept its reader busy for longer than the coordinator waits.
                        Some("STALLED") => self.backoff.pause().await,
                        _ => self.link.failed(status, &mut self.backoff).await?,
                    }
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Step<S::Item>, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = self.source.open(self.link.clients()).await?.into_inner();
                self.link.answered();
                self.stream.insert(stream)
            }
        };
        if let Some(response) = stream.message().await? {
            self.backoff.reset();
            return Ok(Step::Items(self.source.accept(response)));
        }
        self.stream = None;
        if self.source.is_over(self.link.clients()).await? {
            return Ok(Step::Over);
        }
        // A coordinator that shuts down in order ends its streams without an error.
        Err(Status::unavailable("the coordinator ended the stream"))
    }
}

enum Step<T> {
    Items(Vec<T>),
    Over,
}

/// A job after each change, until it has ended.
pub(crate) struct JobChanges {
    pub(crate) job: String,
    pub(crate) ended: bool,
}

impl JobChanges {
    pub(crate) fn of(job: &str) -> Self {
        Self { job: job.to_owned(), ended: false }
    }
}

impl Source for JobChanges {
    type Response = v1::WatchJobResponse;
    type Item = v1::Job;

    async fn open(&self, mut clients: Clients) -> Result<Response<Streaming<Self::Response>>, Status> {
        clients.jobs.watch_job(v1::WatchJobRequest { job: self.job.clone() }).await
    }

    fn accept(&mut self, response: Self::Response) -> Vec<v1::Job> {
        self.ended = response.job.as_ref().is_some_and(text::is_final);
        response.job.into_iter().collect()
    }

    async fn is_over(&self, _: Clients) -> Result<bool, Status> {
        Ok(self.ended)
    }
}

/// One stream of numbered lines: node, rank, generation, and whether Convoke itself speaks.
type LineKey = (String, u32, u64, bool);

/// What has been seen of numbered lines.
#[derive(Default)]
struct Seen {
    last: HashMap<LineKey, u64>,
    /// Time of the earliest line seen.
    first_ms: Option<u64>,
}

impl Seen {
    /// True the first time a line comes.
    fn is_new(&mut self, key: LineKey, sequence: u64, at_ms: u64) -> bool {
        self.first_ms = Some(self.first_ms.map_or(at_ms, |first| first.min(at_ms)));
        match self.last.get_mut(&key) {
            Some(last) if sequence <= *last => false,
            Some(last) => {
                *last = sequence;
                true
            }
            None => {
                self.last.insert(key, sequence);
                true
            }
        }
    }
}

/// A job's output lines.
pub(crate) struct LogLines {
    request: v1::StreamLogsRequest,
    seen: Seen,
}

impl LogLines {
    pub(crate) fn new(request: v1::StreamLogsRequest) -> Self {
        Self { request, seen: Seen::default() }
    }
}

impl Source for LogLines {
    type Response = v1::StreamLogsResponse;
    type Item = v1::LogLine;

    async fn open(&self, mut clients: Clients) -> Result<Response<Streaming<Self::Response>>, Status> {
        let mut request = self.request.clone();
        if let Some(first) = self.seen.first_ms {
            // Where it was: all from the first line shown on, without those that `accept` knows. A
            // slow rank's older lines may still come, so the latest line seen is no place to start.
            if request.tail.take().is_some() {
                request.since_unix_ms = request.since_unix_ms.max(Some(first));
            }
        }
        clients.jobs.stream_logs(request).await
    }

    fn accept(&mut self, response: Self::Response) -> Vec<v1::LogLine> {
        let mut lines = response.lines;
        lines.retain(|line| {
            let ours = line.source() == v1::LogSource::Convoke;
            let key = (line.node.clone(), line.rank, line.generation, ours);
            self.seen.is_new(key, line.sequence, line.at_unix_ms)
        });
        lines
    }

    async fn is_over(&self, clients: Clients) -> Result<bool, Status> {
        if !self.request.follow {
            return Ok(true);
        }
        has_ended(clients, &self.request.job).await
    }
}

/// A job's metric records.
pub(crate) struct Metrics {
    request: v1::StreamMetricsRequest,
    seen: Seen,
}

impl Metrics {
    pub(crate) fn new(request: v1::StreamMetricsRequest) -> Self {
        Self { request, seen: Seen::default() }
    }
}

impl Source for Metrics {
    type Response = v1::StreamMetricsResponse;
    type Item = v1::MetricRecord;

    async fn open(&self, mut clients: Clients) -> Result<Response<Streaming<Self::Response>>, Status> {
        let mut request = self.request.clone();
        if let Some(first) = self.seen.first_ms
            && std::mem::take(&mut request.latest)
        {
            request.since_unix_ms = request.since_unix_ms.max(Some(first));
        }
        clients.jobs.stream_metrics(request).await
    }

    fn accept(&mut self, response: Self::Response) -> Vec<v1::MetricRecord> {
        let mut records = response.records;
        records.retain(|record| {
            let key = (record.node.clone(), record.rank, record.generation, false);
            self.seen.is_new(key, record.sequence, record.at_unix_ms)
        });
        records
    }

    async fn is_over(&self, clients: Clients) -> Result<bool, Status> {
        if !self.request.follow {
            return Ok(true);
        }
        has_ended(clients, &self.request.job).await
    }
}

/// The cluster's history.
pub(crate) struct Events {
    pub(crate) request: v1::StreamEventsRequest,
}

impl Source for Events {
    type Response = v1::StreamEventsResponse;
    type Item = v1::Event;

    async fn open(&self, mut clients: Clients) -> Result<Response<Streaming<Self::Response>>, Status> {
        clients.cluster.stream_events(self.request.clone()).await
    }

    fn accept(&mut self, response: Self::Response) -> Vec<v1::Event> {
        let mut events = response.events;
        events.retain(|event| event.sequence >= self.request.from_sequence);
        if let Some(last) = events.last() {
            self.request.from_sequence = last.sequence.saturating_add(1);
        }
        events
    }

    async fn is_over(&self, _: Clients) -> Result<bool, Status> {
        Ok(!self.request.follow)
    }
}

pub(crate) async fn has_ended(mut clients: Clients, job: &str) -> Result<bool, Status> {
    let response = clients.jobs.get_job(v1::GetJobRequest { job: job.to_owned() }).await?;
    Ok(response.into_inner().job.is_none_or(|job| text::is_final(&job)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(rank: u32, generation: u64, sequence: u64) -> v1::LogLine {
        v1::LogLine { node: "n".into(), rank, generation, sequence, ..Default::default() }
    }

    fn taken(source: &mut LogLines, lines: Vec<v1::LogLine>) -> Vec<(u32, u64)> {
        let lines = source.accept(v1::StreamLogsResponse { lines });
        lines.iter().map(|l| (l.rank, l.sequence)).collect()
    }

    #[test]
    fn lines_that_come_again_after_a_reconnect_are_shown_once() {
        let mut source = LogLines::new(v1::StreamLogsRequest::default());
        assert_eq!(taken(&mut source, vec![line(0, 1, 1), line(1, 1, 1)]), [(0, 1), (1, 1)]);
        let again = vec![line(0, 1, 1), line(1, 1, 1), line(0, 1, 2), line(1, 1, 2)];
        assert_eq!(taken(&mut source, again), [(0, 2), (1, 2)]);
    }

    #[test]
    fn a_new_generation_counts_its_lines_from_the_start() {
        let mut source = LogLines::new(v1::StreamLogsRequest::default());
        taken(&mut source, vec![line(0, 1, 7)]);
        assert_eq!(taken(&mut source, vec![line(0, 2, 1)]), [(0, 1)]);
    }

    #[test]
    fn events_go_on_after_the_last_one_seen() {
        let request = v1::StreamEventsRequest { follow: true, ..Default::default() };
        let mut source = Events { request };
        let event = |sequence| v1::Event { sequence, ..Default::default() };
        assert_eq!(source.accept(v1::StreamEventsResponse { events: vec![event(4), event(5)] }).len(), 2);
        assert_eq!(source.request.from_sequence, 6);
        assert_eq!(source.accept(v1::StreamEventsResponse { events: vec![event(5), event(6)] }).len(), 1);
    }
}

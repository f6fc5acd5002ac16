//! `StreamLogs` and `StreamMetrics`: what is stored, then what comes, until the job has ended and
//! its last line is sent.

use std::sync::Arc;

use convoke_model::{JobId, TaskPhase};
use convoke_proto::v1;
use tonic::{Response, Status};

use super::outgoing::{Outgoing, Streaming, stream};
use super::patience::{Ahead, Patience};
use super::select::{Selection, Start};
use super::{Context, refuse};
use crate::telemetry::{Entry, Feed, Metric, Record, SeriesReader, Shared, StreamId, StreamKind};

/// Bytes read, and sent, at a time.
const CHUNK: u64 = 256 << 10;

pub(super) fn logs(
    context: &Context,
    job: JobId,
    feed: Feed,
    selection: Selection,
) -> Response<Streaming<v1::StreamLogsResponse>> {
    let own = context.clone();
    let wrap = |lines| v1::StreamLogsResponse { lines };
    let shared = feed.log;
    let follower = Follower { context: own, job, shared, selection, kinds: &[StreamKind::Output] };
    stream(context, move |outgoing| follower.run(outgoing, log_line, wrap))
}

pub(super) fn metrics(
    context: &Context,
    job: JobId,
    feed: Feed,
    selection: Selection,
) -> Response<Streaming<v1::StreamMetricsResponse>> {
    let own = context.clone();
    let wrap = |records| v1::StreamMetricsResponse { records };
    let shared = feed.metric;
    let kinds = &[StreamKind::Output, StreamKind::Metrics];
    let follower = Follower { context: own, job, shared, selection, kinds };
    stream(context, move |outgoing| follower.run(outgoing, metric_record, wrap))
}

struct Follower {
    context: Context,
    job: JobId,
    /// The series that is read.
    shared: Arc<Shared>,
    selection: Selection,
    /// Streams whose end is waited for.
    kinds: &'static [StreamKind],
}

impl Follower {
    async fn run<I: 'static, T>(
        self,
        outgoing: Outgoing<T>,
        convert: fn(Record) -> Option<I>,
        wrap: fn(Vec<I>) -> T,
    ) -> Result<(), Status> {
        let (start, mut reader) = self.begin(convert).await?;
        let mut lines = self.shared.changes();
        let mut job = self.context.outlets.jobs.watch(&self.job);
        let mut patience = Patience::default();
        loop {
            lines.mark_unchanged();
            job.mark_unchanged();
            // Asked before reading: what was stored by then is read below.
            let ahead = self.ahead().await?;
            let mut progress = false;
            loop {
                let (back, records) = read(reader).await?;
                reader = back;
                if records.is_empty() {
                    break;
                }
                progress = true;
                let wanted =
                    records.into_iter().filter(|(at, r)| self.selection.wants(r) && start.includes(*at, r));
                let items: Vec<I> = wanted.filter_map(|(_, record)| convert(record)).collect();
                if !items.is_empty() {
                    outgoing.send(wrap(items)).await?;
                }
            }
            if !patience.wait(ahead, progress, &mut lines, &mut job).await {
                return Ok(());
            }
        }
    }

    async fn begin<I: 'static>(
        &self,
        convert: fn(Record) -> Option<I>,
    ) -> Result<(Start, SeriesReader), Status> {
        let (selection, shared) = (self.selection.clone(), self.shared.clone());
        let begun = tokio::task::spawn_blocking(move || {
            let start = selection.start(&shared, |record| convert(record.clone()).is_some())?;
            let reader = SeriesReader::at(shared, start.first);
            Ok::<_, std::io::Error>((start, reader))
        });
        begun.await.map_err(|e| refuse::crashed(&e))?.map_err(|e| refuse::unreadable("the telemetry", &e))
    }

    /// What may still come after what is stored now.
    async fn ahead(&self) -> Result<Ahead, Status> {
        if !self.selection.follow {
            return Ok(Ahead::Nothing);
        }
        let asked = self.job.clone();
        let Some(job) = self.context.owner.read(move |core, _| core.job(&asked)).await? else {
            return Ok(Ahead::Nothing);
        };
        if !job.state.is_final() {
            return Ok(Ahead::Everything);
        }
        let tasks = job.replicas.iter().flat_map(|replica| &replica.tasks);
        let mut started = tasks.filter(|task| task.phase != TaskPhase::Waiting).map(|task| task.rank.0);
        let generation = job.generation.0;
        let ended = started.all(|rank| self.kinds.iter().all(|kind| self.has_ended(generation, rank, *kind)));
        Ok(if ended { Ahead::Nothing } else { Ahead::LastItems })
    }

    fn has_ended(&self, generation: u64, rank: u32, kind: StreamKind) -> bool {
        let stream = StreamId { generation, rank, kind };
        self.shared.published().cursors.get(&stream).is_some_and(|c| c.ended)
    }
}

type Records = Vec<(crate::telemetry::Position, Record)>;

async fn read(mut reader: SeriesReader) -> Result<(SeriesReader, Records), Status> {
    let read = tokio::task::spawn_blocking(move || {
        let records = reader.next(CHUNK)?;
        Ok::<_, std::io::Error>((reader, records))
    });
    read.await.map_err(|e| refuse::crashed(&e))?.map_err(|e| refuse::unreadable("the telemetry", &e))
}

fn log_line(record: Record) -> Option<v1::LogLine> {
    let (source, text) = match record.entry {
        Entry::Stdout(text) => (v1::LogSource::Stdout, text),
        Entry::Stderr(text) => (v1::LogSource::Stderr, text),
        Entry::Convoke(text) => (v1::LogSource::Convoke, text),
        Entry::Gap(to) => {
            let lost = to - record.sequence;
            (v1::LogSource::Convoke, format!("{lost} lines from number {} on were lost", record.sequence))
        }
        Entry::End => return None,
    };
    Some(v1::LogLine {
        node: record.node,
        rank: record.stream.rank,
        generation: record.stream.generation,
        sequence: record.sequence,
        at_unix_ms: record.at,
        source: source.into(),
        text,
    })
}

fn metric_record(record: Record) -> Option<v1::MetricRecord> {
    let Metric { step, values } = Metric::of_record(&record)?;
    Some(v1::MetricRecord {
        node: record.node,
        rank: record.stream.rank,
        generation: record.stream.generation,
        sequence: record.sequence,
        at_unix_ms: record.at,
        step,
        values: values.into_iter().collect(),
    })
}

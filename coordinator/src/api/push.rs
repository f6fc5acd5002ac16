//! `PushTelemetry`: lines in, acknowledgements out, in order.

use convoke_model::{Generation, JobId, NodeId};
use convoke_proto::v1;
use tonic::{Response, Status};

use super::outgoing::{Streaming, stream};
use super::{Context, refuse};
use crate::telemetry::{Entry, Push, Record, Stored, StreamId, StreamKind};

/// Bytes of one line. Agents cut at 64 KiB; characters that were replaced make it at most three
/// times as long.
const LINE: usize = 256 << 10;

pub(super) fn receive(
    context: &Context,
    node: NodeId,
    mut requests: tonic::Streaming<v1::PushTelemetryRequest>,
) -> Response<Streaming<v1::PushTelemetryResponse>> {
    let own = context.clone();
    stream(context, |outgoing| async move {
        // Agents push when there is something; keep-alive ends the stream of a dead one.
        while let Some(request) = requests.message().await? {
            outgoing.send(store(&own, &node, request).await?).await?;
        }
        Ok(())
    })
}

async fn store(
    context: &Context,
    node: &NodeId,
    request: v1::PushTelemetryRequest,
) -> Result<v1::PushTelemetryResponse, Status> {
    let stream = request.stream.clone();
    let push = push(node, request)?;
    let (job, generation) = (push.job.clone(), push.stream.generation);
    let known = context
        .owner
        .read(move |core, _| core.job(&job).is_some_and(|job| Generation(generation) <= job.generation));
    let stored = match known.await? {
        true => context.telemetry.push(push).await?,
        false => Stored::Unwanted,
    };
    Ok(match stored {
        Stored::UpTo(next_sequence) => v1::PushTelemetryResponse { stream, next_sequence, unwanted: false },
        Stored::Unwanted => v1::PushTelemetryResponse { stream, next_sequence: 0, unwanted: true },
    })
}

/// The strict value of a push; `end` becomes its last record.
fn push(node: &NodeId, request: v1::PushTelemetryRequest) -> Result<Push, Status> {
    let key = request.stream.ok_or_else(|| refuse::bad_request("field stream is missing"))?;
    let job = JobId::new(&key.job_id).map_err(|e| refuse::bad_request(e.to_string()))?;
    let kind = match key.kind() {
        v1::StreamKind::Output => StreamKind::Output,
        v1::StreamKind::Metrics => StreamKind::Metrics,
        v1::StreamKind::Unspecified => {
            return Err(refuse::bad_request(format!("stream.kind {} is not a kind of stream", key.kind)));
        }
    };
    let stream = StreamId { generation: key.generation, rank: key.rank, kind };
    let first = request.first_sequence;
    let count = request.lines.len() as u64;
    let next = first.checked_add(count).filter(|next| *next < u64::MAX).ok_or_else(|| {
        refuse::bad_request(format!("first_sequence {first} is too large to count lines from"))
    })?;
    let record = |sequence, at, entry| Record { stream, node: node.to_string(), sequence, at, entry };
    let mut records = Vec::with_capacity(request.lines.len() + 1);
    for (line, sequence) in request.lines.into_iter().zip(first..) {
        records.push(record(sequence, line.at_unix_ms, entry(line, kind)?));
    }
    if request.end {
        let at = records.last().map_or(0, |last| last.at);
        records.push(record(next, at, Entry::End));
    }
    Ok(Push { job, stream, records })
}

fn entry(line: v1::TelemetryLine, kind: StreamKind) -> Result<Entry, Status> {
    if line.text.len() > LINE {
        let length = line.text.len();
        return Err(refuse::bad_request(format!("a line has {length} bytes, more than {LINE}; split it")));
    }
    match (line.source(), kind) {
        (v1::LogSource::Stdout, _) | (v1::LogSource::Unspecified, StreamKind::Metrics) => {
            Ok(Entry::Stdout(line.text))
        }
        (v1::LogSource::Stderr, _) => Ok(Entry::Stderr(line.text)),
        (v1::LogSource::Convoke, _) => Ok(Entry::Convoke(line.text)),
        (v1::LogSource::Unspecified, StreamKind::Output) => {
            Err(refuse::bad_request(format!("line.source {} is not a source", line.source)))
        }
    }
}

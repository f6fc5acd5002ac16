//! A task's lines as runs without gaps, ready to be sent.

use std::io;

use convoke_proto::v1;

use crate::runtime::TaskDir;
use crate::spool::{Batch, Line, LineTail, Reader, Source};

/// Text of one run: far below the largest message, even with the framing of many short lines.
const RUN_BYTES: usize = 256 << 10;

/// The two streams of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// What it prints.
    Output,
    /// What it appends to `$CONVOKE_METRICS`.
    Metrics,
}

impl Kind {
    pub fn wire(self) -> v1::StreamKind {
        match self {
            Self::Output => v1::StreamKind::Output,
            Self::Metrics => v1::StreamKind::Metrics,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Output => "output",
            Self::Metrics => "metrics",
        }
    }
}

/// Consecutive lines.
#[derive(Debug, PartialEq)]
pub(super) struct Run {
    /// Number of the first line.
    pub(super) first: u64,
    pub(super) lines: Vec<v1::TelemetryLine>,
    /// Nothing follows, ever.
    pub(super) end: bool,
}

pub(super) enum Feed {
    Output(Reader),
    Metrics(LineTail),
    /// A read did not come back; the feed is to be opened again.
    Lost,
}

impl Feed {
    pub(super) fn open(files: &TaskDir, kind: Kind, next: u64) -> Self {
        match kind {
            Kind::Output => Self::Output(Reader::new(files.output(), next)),
            Kind::Metrics => Self::Metrics(LineTail::new(files.metrics(), next)),
        }
    }

    /// What is there now; empty if there is nothing new. With `finished` nobody writes any more.
    pub(super) async fn read(&mut self, finished: bool) -> io::Result<Vec<Run>> {
        let mut feed = std::mem::replace(self, Self::Lost);
        let read = tokio::task::spawn_blocking(move || {
            let batch = feed.read_blocking(finished);
            (batch, feed.next(), feed)
        });
        let (batch, next, feed) = read.await.map_err(io::Error::other)?;
        *self = feed;
        Ok(runs(batch?, next))
    }

    fn read_blocking(&mut self, finished: bool) -> io::Result<Batch> {
        match self {
            Self::Output(reader) => {
                let mut batch = reader.read(RUN_BYTES)?;
                // A spool that nobody closed, such as one whose writer was killed.
                batch.ended |= finished && batch.lines.is_empty();
                Ok(batch)
            }
            Self::Metrics(tail) => tail.read(RUN_BYTES, finished),
            Self::Lost => Err(io::Error::other("an earlier read failed")),
        }
    }

    fn next(&self) -> u64 {
        match self {
            Self::Output(reader) => reader.next_sequence(),
            Self::Metrics(tail) => tail.next_sequence(),
            Self::Lost => 0,
        }
    }
}

/// Cuts a batch where numbers jump: lines before the jump are lost, and a run cannot say so.
fn runs(batch: Batch, next: u64) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for line in batch.lines {
        match runs.last_mut() {
            Some(run) if run.first + run.lines.len() as u64 == line.sequence => run.lines.push(wire(line)),
            _ => runs.push(Run { first: line.sequence, lines: vec![wire(line)], end: false }),
        }
    }
    if batch.ended {
        match runs.last_mut() {
            Some(run) => run.end = true,
            None => runs.push(Run { first: next, lines: Vec::new(), end: true }),
        }
    }
    runs
}

fn wire(line: Line) -> v1::TelemetryLine {
    let source = match line.source {
        Source::Stdout => v1::LogSource::Stdout,
        Source::Stderr => v1::LogSource::Stderr,
        Source::Convoke => v1::LogSource::Convoke,
    };
    v1::TelemetryLine { at_unix_ms: line.at.0, source: source.into(), text: line.text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_model::Timestamp;

    fn line(sequence: u64) -> Line {
        Line { sequence, at: Timestamp(1), source: Source::Stdout, text: sequence.to_string() }
    }

    fn shape(runs: &[Run]) -> Vec<(u64, usize, bool)> {
        runs.iter().map(|run| (run.first, run.lines.len(), run.end)).collect()
    }

    #[test]
    fn a_jump_of_the_numbers_starts_a_new_run_and_the_end_is_on_the_last() {
        let lines = [3, 4, 9, 10].into_iter().map(line).collect();
        assert_eq!(shape(&runs(Batch { lines, ended: true }, 11)), [(3, 2, false), (9, 2, true)]);
    }

    #[test]
    fn an_end_without_lines_is_said_at_the_next_number() {
        assert_eq!(shape(&runs(Batch { lines: Vec::new(), ended: true }, 5)), [(5, 0, true)]);
        assert!(runs(Batch::default(), 5).is_empty());
    }
}

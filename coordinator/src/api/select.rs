//! Which records of a series a client wants.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use convoke_proto::v1;

use crate::telemetry::{Position, Record, Shared, tail_positions};

#[derive(Debug, Clone)]
pub(super) struct Selection {
    /// Empty is every rank.
    ranks: Vec<u32>,
    since: u64,
    /// Only each rank's last records.
    last: Option<usize>,
    pub(super) follow: bool,
}

/// Where a selection begins.
#[derive(Debug, Default)]
pub(super) struct Start {
    pub(super) first: Position,
    by_rank: HashMap<u32, Position>,
}

impl Selection {
    pub(super) fn of_logs(request: &v1::StreamLogsRequest) -> Self {
        Self {
            ranks: request.ranks.clone(),
            since: request.since_unix_ms.unwrap_or(0),
            last: request.tail.map(|n| n as usize),
            follow: request.follow,
        }
    }

    pub(super) fn of_metrics(request: &v1::StreamMetricsRequest) -> Self {
        Self {
            ranks: request.ranks.clone(),
            since: request.since_unix_ms.unwrap_or(0),
            last: request.latest.then_some(1),
            follow: request.follow,
        }
    }

    pub(super) fn wants(&self, record: &Record) -> bool {
        record.at >= self.since && (self.ranks.is_empty() || self.ranks.contains(&record.stream.rank))
    }

    /// Finds the begin; `shows` says which records count. Blocks on the disk.
    pub(super) fn start(&self, shared: &Arc<Shared>, shows: impl Fn(&Record) -> bool) -> io::Result<Start> {
        let Some(count) = self.last else { return Ok(Start::default()) };
        let by_rank = tail_positions(shared, count, &self.ranks, |r| self.wants(r) && shows(r))?;
        let first = by_rank.values().min().copied().unwrap_or_default();
        Ok(Start { first, by_rank })
    }
}

impl Start {
    /// Whether a record lies behind the begin of its rank; a rank that came later has none.
    pub(super) fn includes(&self, position: Position, record: &Record) -> bool {
        self.by_rank.get(&record.stream.rank).is_none_or(|start| position >= *start)
    }
}

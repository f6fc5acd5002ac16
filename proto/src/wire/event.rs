//! History.

use convoke_model::{EventLevel, EventRecord};

use crate::v1;

impl v1::Event {
    /// A record and its place in the history.
    pub fn new(sequence: u64, record: EventRecord) -> Self {
        let level = match record.level {
            EventLevel::Info => v1::EventLevel::Info,
            EventLevel::Warning => v1::EventLevel::Warning,
        };
        Self {
            sequence,
            at_unix_ms: record.at.0,
            level: level.into(),
            kind: record.kind,
            job_id: record.job.map(Into::into),
            job_name: record.job_name.map(Into::into),
            generation: record.generation.map(|g| g.0),
            node: record.node.map(Into::into),
            message: record.message,
        }
    }
}

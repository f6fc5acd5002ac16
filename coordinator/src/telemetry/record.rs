//! What a segment holds: JSON lines. The first line of a segment is its [`Header`], every other one
//! a [`Record`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Names a task's stream within its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct StreamId {
    #[serde(rename = "g")]
    pub(crate) generation: u64,
    /// The task's first rank.
    #[serde(rename = "r")]
    pub(crate) rank: u32,
    #[serde(rename = "k")]
    pub(crate) kind: StreamKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum StreamKind {
    #[serde(rename = "o")]
    Output,
    #[serde(rename = "m")]
    Metrics,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    pub(crate) stream: StreamId,
    #[serde(rename = "h")]
    pub(crate) node: String,
    /// Line number in the stream.
    #[serde(rename = "n")]
    pub(crate) sequence: u64,
    /// Unix milliseconds.
    #[serde(rename = "t")]
    pub(crate) at: u64,
    #[serde(rename = "e")]
    pub(crate) entry: Entry,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Entry {
    #[serde(rename = "o")]
    Stdout(String),
    #[serde(rename = "e")]
    Stderr(String),
    /// Something that Convoke's agent says about the stream.
    #[serde(rename = "c")]
    Convoke(String),
    /// The lines from the record's sequence up to this one, exclusive, were lost.
    #[serde(rename = "gap")]
    Gap(u64),
    /// Nothing follows in this stream.
    #[serde(rename = "end")]
    End,
}

/// How far a stream is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Cursor {
    /// Everything before it is stored, or known to be lost.
    pub(crate) next: u64,
    pub(crate) ended: bool,
}

/// Every stream's cursor at a segment's begin: old segments go, the cursors must not.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) streams: Vec<(StreamId, Cursor)>,
}

/// One line of JSON with a `step`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Metric {
    pub(crate) step: u64,
    /// Every other number, by its key.
    pub(crate) values: BTreeMap<String, f64>,
}

impl Cursor {
    /// The cursor after `record`.
    pub(crate) fn after(self, record: &Record) -> Self {
        match record.entry {
            Entry::End => Self { ended: true, ..self },
            Entry::Gap(to) => Self { next: self.next.max(to), ..self },
            Entry::Stdout(_) | Entry::Stderr(_) | Entry::Convoke(_) => {
                Self { next: self.next.max(record.sequence + 1), ..self }
            }
        }
    }
}

impl Metric {
    /// The metric that a line is; `None` for any other line.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let line = line.trim();
        // Most lines are not metrics: look before parsing.
        if !line.starts_with('{') || !line.contains("\"step\"") {
            return None;
        }
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).ok()?;
        let step = object.get("step")?.as_u64()?;
        let values = object.into_iter().filter(|(key, _)| key != "step");
        let values = values.filter_map(|(key, value)| Some((key, value.as_f64()?))).collect();
        Some(Self { step, values })
    }

    /// The metric that a record holds, if any.
    pub(crate) fn of_record(record: &Record) -> Option<Self> {
        match &record.entry {
            Entry::Stdout(text) | Entry::Stderr(text) => Self::of_line(text),
            Entry::Convoke(_) | Entry::Gap(_) | Entry::End => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_metric_only_if_it_is_an_object_with_an_integer_step() {
        let metric =
            Metric::of_line(r#" {"step": 10, "loss": 0.31, "phase": "train", "ok": true} "#).unwrap();
        assert_eq!(metric.step, 10);
        assert_eq!(metric.values, BTreeMap::from([("loss".to_owned(), 0.31)]));
        for line in ["", "step 10", r#"{"loss": 1}"#, r#"{"step": 1.5}"#, r#"{"step": -1}"#, r#"{"step": 1"#]
        {
            assert!(Metric::of_line(line).is_none(), "{line}");
        }
    }

    #[test]
    fn a_record_survives_its_json() {
        let stream = StreamId { generation: 2, rank: 3, kind: StreamKind::Output };
        let entries = [Entry::Stdout("a\nb".into()), Entry::Convoke("x".into()), Entry::Gap(9), Entry::End];
        for entry in entries {
            let record = Record { stream, node: "n".into(), sequence: 4, at: 5, entry };
            let json = serde_json::to_string(&record).unwrap();
            assert!(!json.contains('\n'), "one record is one line: {json}");
            assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
        }
    }
}

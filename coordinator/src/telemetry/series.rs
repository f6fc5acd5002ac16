//! A job's log records, or its metric records: a row of segment files, the newest of which grows.
//!
//! Each stream has a cursor, so that a line that comes again is dropped and one that is missing is
//! marked. An append is one write and one fsync; what it wrote counts when it has returned, and a
//! failed one leaves nothing behind: the file is cut to its published length before the next write.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::record::{Cursor, Entry, Header, Record, StreamId};
use super::recover;
use crate::data_dir::sync_dir;

/// Cursors of older generations than this many back are forgotten (a header stays small however
/// often a job restarts); their lines are refused as unwanted. Agents report within a generation or
/// two, so eight is ample.
pub(crate) const GENERATIONS_KEPT: u64 = 8;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of all segments; the newest is always kept.
    pub(crate) total: u64,
    /// A segment that has this many bytes is followed by a new one.
    pub(crate) segment: u64,
}

impl Limits {
    /// Sixteen segments a series, each small enough to be scanned at a start in no time.
    pub(crate) fn of_total(total: u64) -> Self {
        Self { total, segment: (total / 16).clamp(1 << 12, 8 << 20) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) index: u64,
    /// Bytes that are durable and may be read.
    pub(crate) len: u64,
}

/// What readers see of a series.
#[derive(Debug)]
pub(crate) struct Shared {
    dir: PathBuf,
    prefix: &'static str,
    published: Mutex<Published>,
    version: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Published {
    /// Oldest first.
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) cursors: HashMap<StreamId, Cursor>,
}

/// The writing side of a series.
#[derive(Debug)]
pub(crate) struct Series {
    shared: Arc<Shared>,
    limits: Limits,
}

/// Whether a hole in the sequence is marked with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gaps {
    Marked,
    /// The records are a selection of the stream's lines.
    Expected,
}

impl Shared {
    pub(crate) fn published(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn path_of(&self, index: u64) -> PathBuf {
        self.dir.join(format!("{}-{index:010}.jsonl", self.prefix))
    }

    /// Changes after every append.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}

impl Published {
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.len).sum()
    }

    pub(crate) fn newest_generation(&self) -> u64 {
        self.cursors.keys().map(|s| s.generation).max().unwrap_or(0)
    }
}

impl Series {
    /// Opens a series; a torn tail is cut off, and every cursor is rebuilt.
    pub(crate) fn open(dir: &Path, prefix: &'static str, limits: Limits) -> io::Result<Self> {
        let (version, _) = watch::channel(0);
        let shared = Shared { dir: dir.to_owned(), prefix, published: Mutex::default(), version };
        let published = recover::recover(dir, prefix, |index| shared.path_of(index))?;
        *shared.published() = published;
        Ok(Self { shared: Arc::new(shared), limits })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn cursor(&self, stream: StreamId) -> Cursor {
        self.shared.published().cursors.get(&stream).copied().unwrap_or_default()
    }

    /// Stores what is new of `records`, durably.
    pub(crate) fn append(&mut self, records: Vec<Record>, gaps: Gaps) -> io::Result<()> {
        let (lines, moved) = self.select(records, gaps);
        if lines.is_empty() {
            return Ok(());
        }
        let written = self.write(&lines)?;
        {
            let mut published = self.shared.published();
            match published.segments.back_mut() {
                Some(last) if last.index == written.index => *last = written,
                _ => published.segments.push_back(written),
            }
            published.cursors.extend(moved);
        }
        while self.shared.published().bytes() > self.limits.total && self.drop_oldest()? {}
        self.shared.version.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Leaves out what is stored, marks what is missing; the new cursors count once it is written.
    fn select(&self, records: Vec<Record>, gaps: Gaps) -> (Vec<u8>, HashMap<StreamId, Cursor>) {
        let published = self.shared.published();
        let mut moved: HashMap<StreamId, Cursor> = HashMap::new();
        let mut lines = Vec::new();
        for record in records {
            let stored = published.cursors.get(&record.stream).copied().unwrap_or_default();
            let cursor = moved.get(&record.stream).copied().unwrap_or(stored);
            let old = record.sequence < cursor.next && record.entry != Entry::End;
            if cursor.ended || old {
                continue;
            }
            let mut after = cursor;
            if gaps == Gaps::Marked && record.sequence > cursor.next {
                let gap =
                    Record { sequence: cursor.next, entry: Entry::Gap(record.sequence), ..record.clone() };
                after = after.after(&gap);
                encode(&mut lines, &gap);
            }
            encode(&mut lines, &record);
            moved.insert(record.stream, after.after(&record));
        }
        (lines, moved)
    }

    fn write(&self, lines: &[u8]) -> io::Result<Segment> {
        let last = self.shared.published().segments.back().copied();
        match last {
            Some(segment) if segment.len < self.limits.segment => self.extend(segment, lines),
            _ => self.start(last.map_or(1, |s| s.index + 1), lines),
        }
    }

    fn extend(&self, segment: Segment, lines: &[u8]) -> io::Result<Segment> {
        let mut file = File::options().write(true).open(self.shared.path_of(segment.index))?;
        if file.metadata()?.len() != segment.len {
            // A write before this one failed half way.
            file.set_len(segment.len)?;
        }
        file.seek(SeekFrom::Start(segment.len))?;
        file.write_all(lines)?;
        file.sync_data()?;
        Ok(Segment { len: segment.len + lines.len() as u64, ..segment })
    }

    fn start(&self, index: u64, lines: &[u8]) -> io::Result<Segment> {
        std::fs::create_dir_all(&self.shared.dir)?;
        let mut bytes = Vec::with_capacity(lines.len() + 256);
        encode(&mut bytes, &self.header());
        bytes.extend_from_slice(lines);
        let mut file =
            File::options().write(true).create(true).truncate(true).open(self.shared.path_of(index))?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        sync_dir(&self.shared.dir)?;
        if let Some(parent) = self.shared.dir.parent() {
            sync_dir(parent)?;
        }
        Ok(Segment { index, len: bytes.len() as u64 })
    }

    fn header(&self) -> Header {
        let mut published = self.shared.published();
        let newest = published.newest_generation();
        published.cursors.retain(|stream, _| stream.generation + GENERATIONS_KEPT > newest);
        let mut streams: Vec<_> = published.cursors.iter().map(|(s, c)| (*s, *c)).collect();
        streams.sort_unstable_by_key(|(stream, _)| *stream);
        Header { streams }
    }

    /// Deletes the oldest segment unless it is the newest too; false if it is.
    pub(crate) fn drop_oldest(&mut self) -> io::Result<bool> {
        let oldest = {
            let mut published = self.shared.published();
            if published.segments.len() < 2 {
                return Ok(false);
            }
            published.segments.pop_front().expect("there are two")
        };
        std::fs::remove_file(self.shared.path_of(oldest.index))?;
        Ok(true)
    }
}

fn encode(lines: &mut Vec<u8>, value: &impl serde::Serialize) {
    serde_json::to_writer(&mut *lines, value).expect("plain data into memory");
    lines.push(b'\n');
}

#[cfg(test)]
#[path = "series_tests.rs"]
mod tests;

//! The writing side: one writer per spool, which never stops its task.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use convoke_model::Timestamp;

use super::{Ends, Line, MAX_LINE, Source, WRITING, cut, end_name, list, segment_name};

/// A spool keeps this many segments at its bound: dropping one loses little of what is kept.
const SEGMENTS: u64 = 32;
/// Lines are handed to the disk at the latest when this much is buffered: some reads of a pipe.
pub(super) const BUFFER: usize = 256 * 1024;

/// Writes a spool. Lines are on their way to disk after [`Writer::flush`].
#[derive(Debug)]
pub struct Writer {
    dir: PathBuf,
    /// Bytes per segment.
    segment_limit: u64,
    /// First line number of each segment; the last is the current one.
    segments: VecDeque<u64>,
    current: File,
    size: u64,
    next: u64,
    buffer: Vec<u8>,
    /// First line number in the buffer, and how many lines of the task's it holds.
    buffered: (u64, u64),
    /// Lines of the task's that are lost and not yet marked, and why.
    lost: (u64, String),
}

impl Writer {
    /// Starts an empty spool in `dir` that keeps about `limit` bytes.
    pub fn create(dir: &Path, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        File::create(dir.join(WRITING))?;
        Ok(Self {
            dir: dir.to_owned(),
            // Even the smallest spool takes what is buffered.
            segment_limit: (limit / SEGMENTS).max(2 * BUFFER as u64),
            segments: VecDeque::from([0]),
            current: open_segment(dir, 0)?,
            size: 0,
            next: 0,
            buffer: Vec::new(),
            buffered: (0, 0),
            lost: (0, String::new()),
        })
    }

    /// Goes on with the spool of a writer that died: after its last whole line. Returns what it holds
    /// of each source too; `None` for a spool that is sealed.
    pub fn resume(dir: &Path, limit: u64) -> io::Result<Option<(Self, Ends)>> {
        let listing = list(dir)?;
        if listing.end.is_some() {
            return Ok(None);
        }
        let Some(&last) = listing.segments.last() else {
            return Ok(Some((Self::create(dir, limit)?, Ends::default())));
        };
        let mut ends = Ends::default();
        // A few lines of the segment before may belong to the same instant.
        let before = listing.segments.len().saturating_sub(2);
        let (mut next, mut size) = (last, 0);
        for &segment in &listing.segments[before..] {
            size = 0;
            for piece in fs::read(dir.join(segment_name(segment)))?.split_inclusive(|b| *b == b'\n') {
                let Some(line) = Line::decode(piece) else { break };
                size += piece.len() as u64;
                next = line.sequence + 1;
                ends.count(line.source, line.at);
            }
        }
        let current = open_segment(dir, last)?;
        current.set_len(size)?;
        let mut writer = Self::create(dir, limit)?;
        writer.segments = listing.segments.into();
        (writer.current, writer.size, writer.next) = (current, size, next);
        Ok(Some((writer, ends)))
    }

    /// Adds what `source` printed up to (and without) a newline. Bytes that are not UTF-8 are
    /// replaced; more than [`MAX_LINE`] becomes several lines.
    pub fn push(&mut self, at: Timestamp, source: Source, bytes: &[u8]) {
        if self.lost.0 > 0 {
            let (count, why) = std::mem::take(&mut self.lost);
            self.add(at, Source::Convoke, format!("{count} lines of output were lost here: {why}"));
            self.buffered.1 += count; // Still unmarked if this mark is lost too.
        }
        for piece in pieces(bytes) {
            self.add(at, source, piece);
            self.buffered.1 += 1;
        }
        if self.buffer.len() >= BUFFER {
            self.flush();
        }
    }

    fn add(&mut self, at: Timestamp, source: Source, text: String) {
        if self.buffer.is_empty() {
            self.buffered = (self.next, 0);
        }
        Line { sequence: self.next, at, source, text }.encode(&mut self.buffer);
        self.next += 1;
    }

    /// Hands the buffered lines to the disk. If it takes none, they are counted as lost.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let written = self.write_buffer().or_else(|error| {
            // Old lines make room for new ones.
            if self.make_room() { self.write_buffer() } else { Err(error) }
        });
        if let Err(error) = written {
            self.lost = (self.lost.0 + self.buffered.1, error.to_string());
        }
        self.buffer.clear();
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        let (first, _) = self.buffered;
        if self.size > 0 && self.size + self.buffer.len() as u64 > self.segment_limit {
            self.roll(first)?;
        }
        if let Err(error) = self.current.write_all(&self.buffer) {
            // What was half written must not run into the next line.
            self.current.set_len(self.size)?;
            return Err(error);
        }
        self.size += self.buffer.len() as u64;
        Ok(())
    }

    fn roll(&mut self, first: u64) -> io::Result<()> {
        self.current = open_segment(&self.dir, first)?;
        self.segments.push_back(first);
        self.size = 0;
        while self.segments.len() as u64 > SEGMENTS && self.drop_oldest() {}
        Ok(())
    }

    /// Drops the oldest segment, even if that is all there is: the newest lines matter most.
    fn make_room(&mut self) -> bool {
        if self.segments.len() == 1 && self.size > 0 && self.roll(self.buffered.0).is_err() {
            return false;
        }
        self.drop_oldest()
    }

    /// Never the current one; false if there is no other.
    fn drop_oldest(&mut self) -> bool {
        if self.segments.len() < 2 {
            return false;
        }
        let oldest = self.segments.pop_front();
        oldest.is_some_and(|first| fs::remove_file(self.dir.join(segment_name(first))).is_ok())
    }

    /// Writes what is left, marks what is missing, and seals the spool.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush();
        let synced = self.current.sync_data();
        fs::rename(self.dir.join(WRITING), self.dir.join(end_name(self.next)))?;
        File::open(&self.dir)?.sync_all()?;
        synced
    }
}

/// Seals the spool of a writer that died; does nothing to a sealed one.
pub fn seal(dir: &Path) -> io::Result<()> {
    let listing = list(dir)?;
    if listing.end.is_some() {
        return Ok(());
    }
    let mut next = listing.segments.last().copied().unwrap_or(0);
    if !listing.segments.is_empty() {
        let bytes = fs::read(dir.join(segment_name(next)))?;
        let last = bytes.split_inclusive(|b| *b == b'\n').filter_map(Line::decode).next_back();
        next = last.map_or(next, |line| line.sequence + 1);
    }
    fs::create_dir_all(dir)?;
    let writing = dir.join(WRITING);
    if !writing.exists() {
        File::create(&writing)?;
    }
    fs::rename(writing, dir.join(end_name(next)))
}

/// What was printed up to a newline, as the lines that a spool makes of it.
pub(crate) fn pieces(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut rest = text.as_bytes();
    let mut pieces = Vec::with_capacity(1);
    loop {
        let (piece, more) = rest.split_at(cut(rest, MAX_LINE));
        pieces.push(String::from_utf8_lossy(piece).into_owned());
        if more.is_empty() {
            return pieces;
        }
        rest = more;
    }
}

fn open_segment(dir: &Path, first: u64) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(dir.join(segment_name(first)))
}

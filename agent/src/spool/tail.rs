//! Lines of a plain file that somebody else appends to, such as `$CONVOKE_METRICS`.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use convoke_model::Timestamp;

use crate::clock;

use super::{Batch, Line, MAX_LINE, Source, cut};

/// Reads a growing file by line number. Lines have source `Stdout` and the time they were read;
/// what a line has beyond [`MAX_LINE`] is left out. Blocking, but never waits.
#[derive(Debug)]
pub struct LineTail {
    path: PathBuf,
    /// Lines before this number were read by an earlier tail.
    from: u64,
    /// The line being read.
    next: u64,
    /// Bytes of the file that were read.
    offset: u64,
    /// The beginning of the line being read; at most [`MAX_LINE`] bytes of it are kept.
    partial: Vec<u8>,
}

impl LineTail {
    /// Starts at line number `from`, counting from 0; the file need not exist yet.
    pub fn new(path: PathBuf, from: u64) -> Self {
        Self { path, from, next: 0, offset: 0, partial: Vec::new() }
    }

    /// The number of the next line that a read may return.
    pub fn next_sequence(&self) -> u64 {
        self.next.max(self.from)
    }

    /// Whole lines that are there now, at most about `max_bytes` of text. With `finished` (no
    /// process is left that could write) a last line without newline counts too, and the batch that
    /// reaches the end of the file is `ended`.
    pub fn read(&mut self, max_bytes: usize, finished: bool) -> io::Result<Batch> {
        let mut batch = Batch { lines: Vec::new(), ended: finished };
        let mut file = match File::open(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(batch),
            file => file?,
        };
        if file.metadata()?.len() < self.offset {
            // Somebody cut the file; what it holds now counts as further lines.
            self.offset = 0;
            self.partial.clear();
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let at = clock::now();
        let mut room = max_bytes;
        let mut chunk = vec![0; MAX_LINE];
        loop {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                break;
            }
            for piece in chunk[..read].split_inclusive(|b| *b == b'\n') {
                if room == 0 {
                    batch.ended = false;
                    return Ok(batch);
                }
                self.offset += piece.len() as u64;
                self.take(piece, at, &mut room, &mut batch.lines);
            }
        }
        if finished && !self.partial.is_empty() {
            self.complete(at, &mut room, &mut batch.lines);
        }
        Ok(batch)
    }

    fn take(&mut self, piece: &[u8], at: Timestamp, room: &mut usize, lines: &mut Vec<Line>) {
        let (text, whole) = match piece.strip_suffix(b"\n") {
            Some(text) => (text, true),
            None => (piece, false),
        };
        let space = MAX_LINE - self.partial.len();
        self.partial.extend_from_slice(&text[..text.len().min(space)]);
        if whole {
            self.complete(at, room, lines);
        }
    }

    fn complete(&mut self, at: Timestamp, room: &mut usize, lines: &mut Vec<Line>) {
        if self.next >= self.from {
            let mut text = String::from_utf8_lossy(&self.partial).into_owned();
            text.truncate(cut(text.as_bytes(), MAX_LINE));
            *room = room.saturating_sub(text.len() + 1);
            lines.push(Line { sequence: self.next, at, source: Source::Stdout, text });
        }
        self.next += 1;
        self.partial.clear();
    }
}

//! The reading side.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;

use super::{Batch, Line, Source, list, segment_name};

/// Reads a spool from a line number on. Blocking, but never waits: call it again later.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    next: u64,
    /// The segment last read and how far, so that reading on does not start over.
    at: Option<(u64, u64)>,
}

/// Why reading a segment stopped.
enum Stop {
    Full,
    /// At its last whole line.
    End,
}

impl Reader {
    /// `dir` need not exist yet.
    pub fn new(dir: PathBuf, next: u64) -> Self {
        Self { dir, next, at: None }
    }

    /// The first number that the next read may return.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// The lines that are there now, at most about `max_bytes` of text (at least one line if there
    /// is one). Empty and not ended: nothing new yet.
    pub fn read(&mut self, max_bytes: usize) -> io::Result<Batch> {
        // The end is looked up before the lines, so that an end that is seen is one with all lines.
        let listing = list(&self.dir)?;
        let mut batch = Batch::default();
        let mut room = max_bytes;
        let holds_next = listing.segments.partition_point(|first| *first <= self.next);
        for &segment in &listing.segments[holds_next.saturating_sub(1)..] {
            match self.read_segment(segment, &mut room, &mut batch.lines) {
                Ok(Stop::Full) => return Ok(batch),
                Ok(Stop::End) => {}
                // Dropped by the writer since it was listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        if let Some(end) = listing.end {
            self.mark_lost_end(end, &mut batch.lines);
            batch.ended = true;
        }
        Ok(batch)
    }

    fn read_segment(&mut self, segment: u64, room: &mut usize, lines: &mut Vec<Line>) -> io::Result<Stop> {
        let mut offset = self.at.filter(|(at, _)| *at == segment).map_or(0, |(_, offset)| offset);
        let mut file = BufReader::new(File::open(self.dir.join(segment_name(segment)))?);
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        let stop = loop {
            if *room == 0 {
                break Stop::Full;
            }
            bytes.clear();
            let length = file.read_until(b'\n', &mut bytes)?;
            if !bytes.ends_with(b"\n") {
                break Stop::End; // The end, or a line that is torn or still being written.
            }
            offset += length as u64;
            if let Some(line) = Line::decode(&bytes).filter(|line| line.sequence >= self.next) {
                self.next = line.sequence + 1;
                *room = room.saturating_sub(line.text.len() + 1);
                lines.push(line);
            }
        };
        self.at = Some((segment, offset));
        Ok(stop)
    }

    /// Lines that the disk did not take at the very end leave no later line to show the gap.
    fn mark_lost_end(&mut self, end: u64, lines: &mut Vec<Line>) {
        if self.next < end {
            let text = format!("{} lines of output were lost here: the disk took no more", end - self.next);
            let at = lines.last().map(|line| line.at).unwrap_or_default();
            lines.push(Line { sequence: end - 1, at, source: Source::Convoke, text });
            self.next = end;
        }
    }
}

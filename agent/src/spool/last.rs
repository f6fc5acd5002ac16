//! The last lines of a spool.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use super::{Line, Reader, list};

/// Read at once.
const CHUNK: usize = 1 << 20;

/// The last `count` numbers' lines, each cut to `max` bytes; fewer where some were dropped. Blocking.
pub fn last(dir: &Path, count: u64, max: usize) -> io::Result<Vec<Line>> {
    let listing = list(dir)?;
    let first = listing.segments.first().copied().unwrap_or_default();
    let from = listing.end.map_or(first, |end| end.saturating_sub(count));
    let mut reader = Reader::new(dir.to_owned(), from);
    let mut lines: VecDeque<Line> = VecDeque::new();
    loop {
        let batch = reader.read(CHUNK)?;
        let over = batch.ended || batch.lines.is_empty();
        for mut line in batch.lines {
            line.text.truncate(line.text.floor_char_boundary(max));
            lines.push_back(line);
        }
        while lines.len() as u64 > count {
            lines.pop_front();
        }
        if over {
            return Ok(lines.into());
        }
    }
}

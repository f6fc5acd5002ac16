//! Reading a series from a position on, beside its writer: readers only look at published bytes and
//! never hold the writer up.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

use super::record::Record;
use super::series::{Segment, Shared};

/// Where a record begins. Ordered as the series is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// A cursor over a series; blocks on the disk.
pub(crate) struct SeriesReader {
    shared: Arc<Shared>,
    position: Position,
    open: Option<(u64, File)>,
}

impl SeriesReader {
    /// From the first record at or after `position`; the default one is the oldest that is kept.
    pub(crate) fn at(shared: Arc<Shared>, position: Position) -> Self {
        Self { shared, position, open: None }
    }

    /// The next records, about `bytes` of them; empty at the present end.
    pub(crate) fn next(&mut self, bytes: u64) -> io::Result<Vec<(Position, Record)>> {
        loop {
            let Some(segment) = self.current_segment() else { return Ok(Vec::new()) };
            match self.read(segment, bytes) {
                Ok(records) if records.is_empty() => {}
                Ok(records) => return Ok(records),
                // Retention took the segment: go on with the one that is now the oldest.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.position = Position { segment: segment.index + 1, offset: 0 };
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The segment with something to read, moving over those that are finished or gone.
    fn current_segment(&mut self) -> Option<Segment> {
        let published = self.shared.published();
        let segment = published.segments.iter().find(|s| {
            s.index > self.position.segment
                || (s.index == self.position.segment && s.len > self.position.offset)
        })?;
        if segment.index != self.position.segment {
            self.position = Position { segment: segment.index, offset: 0 };
        }
        Some(*segment)
    }

    /// Reads whole lines from the position on, within the published length.
    fn read(&mut self, segment: Segment, bytes: u64) -> io::Result<Vec<(Position, Record)>> {
        let file = match &mut self.open {
            Some((index, file)) if *index == segment.index => file,
            slot => {
                let file = File::open(self.shared.path_of(segment.index))?;
                &mut slot.insert((segment.index, file)).1
            }
        };
        let mut want = bytes.max(1);
        loop {
            let available = segment.len - self.position.offset;
            let mut buffer = Vec::new();
            file.seek(SeekFrom::Start(self.position.offset))?;
            file.take(want.min(available)).read_to_end(&mut buffer)?;
            let whole = buffer.iter().rposition(|b| *b == b'\n').map(|i| i + 1);
            match whole {
                Some(whole) => {
                    let records = parse(&buffer[..whole], self.position);
                    self.position.offset += whole as u64;
                    return Ok(records);
                }
                // One line is longer than that: take more.
                None if want < available && !buffer.is_empty() => want = want.saturating_mul(4),
                // Published bytes end with a newline; this file was tampered with.
                None => {
                    self.position.offset = segment.len;
                    return Ok(Vec::new());
                }
            }
        }
    }
}

/// Records of whole lines; the header and damaged lines are none.
fn parse(bytes: &[u8], from: Position) -> Vec<(Position, Record)> {
    let mut records = Vec::new();
    let mut position = from;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        if let Ok(record) = serde_json::from_slice(line) {
            records.push((position, record));
        }
        position.offset += line.len() as u64;
    }
    records
}

/// For each rank, where its last `count` records that `wanted` accepts begin. Reads backwards by
/// segment, and stops when every rank that ever wrote has enough.
pub(crate) fn tail_positions(
    shared: &Arc<Shared>,
    count: usize,
    ranks: &[u32],
    wanted: impl Fn(&Record) -> bool,
) -> io::Result<HashMap<u32, Position>> {
    let (segments, mut missing) = {
        let published = shared.published();
        let known =
            published.cursors.keys().map(|s| s.rank).filter(|r| ranks.is_empty() || ranks.contains(r));
        let missing: HashMap<u32, usize> = known.map(|rank| (rank, count)).collect();
        (published.segments.clone(), missing)
    };
    let mut starts = HashMap::new();
    for segment in segments.iter().rev() {
        if missing.values().all(|n| *n == 0) {
            break;
        }
        for (rank, last) in last_of_segment(shared, *segment, &missing, &wanted)? {
            starts.extend(last.front().map(|first| (rank, *first)));
            missing.entry(rank).and_modify(|n| *n -= last.len());
        }
    }
    // A rank without any such record starts at the end: only what comes later counts.
    let end = segments.back().map_or(Position::default(), |s| Position { segment: s.index, offset: s.len });
    for rank in missing.keys() {
        starts.entry(*rank).or_insert(end);
    }
    Ok(starts)
}

fn last_of_segment(
    shared: &Arc<Shared>,
    segment: Segment,
    missing: &HashMap<u32, usize>,
    wanted: &impl Fn(&Record) -> bool,
) -> io::Result<HashMap<u32, VecDeque<Position>>> {
    let mut last: HashMap<u32, VecDeque<Position>> = HashMap::new();
    let mut reader = SeriesReader::at(shared.clone(), Position { segment: segment.index, offset: 0 });
    loop {
        let records = match reader.read(segment, 1 << 20) {
            Ok(records) => records,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(last),
            Err(error) => return Err(error),
        };
        for (position, record) in records {
            let keep = missing.get(&record.stream.rank).copied().unwrap_or(0);
            if keep > 0 && wanted(&record) {
                let positions = last.entry(record.stream.rank).or_default();
                if positions.len() == keep {
                    positions.pop_front();
                }
                positions.push_back(position);
            }
        }
        if reader.position.offset >= segment.len {
            return Ok(last);
        }
    }
}

//! A task's output on disk: a bounded run of numbered lines, written by one process (the shim, or the
//! agent for a container) and read by another (the agent, and the next agent).
//!
//! A spool is a directory of segments, each named by its first line's number. A line on disk is
//! `<number> <unix ms> <o|e|c> <text>\n`, so a person can read it with `cat`. The file `writing`
//! says that more may come; sealing renames it to `end-<next number>`, which needs no disk space.
//!
//! Lines are numbered from 0. When the bound is reached, or the disk is full, the oldest segment
//! goes: a reader sees a jump of the numbers. The newest lines are never the ones dropped, unless
//! the disk takes nothing at all; then the writer says how many are missing as soon as it can, or
//! the reader does at the end. A torn last line (its writer was killed) is left out.

mod ends;
mod last;
mod reader;
mod tail;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use convoke_model::Timestamp;

pub use ends::{End, Ends};
pub use last::last;
pub use reader::Reader;
pub use tail::LineTail;
pub(crate) use writer::pieces;
pub use writer::{Writer, seal};

/// Longer lines are split. The same bound as on the wire.
pub const MAX_LINE: usize = 64 * 1024;

/// Who said a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Stdout,
    Stderr,
    /// Convoke, about the stream itself.
    Convoke,
}

/// One line of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub sequence: u64,
    pub at: Timestamp,
    pub source: Source,
    /// Without its newline; at most [`MAX_LINE`] bytes.
    pub text: String,
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// In order; a jump of the sequence means that lines were dropped.
    pub lines: Vec<Line>,
    /// Nothing follows the last of these lines, ever.
    pub ended: bool,
}

impl Source {
    fn letter(self) -> char {
        match self {
            Self::Stdout => 'o',
            Self::Stderr => 'e',
            Self::Convoke => 'c',
        }
    }
}

impl Line {
    /// The line as it stands in a segment, newline included.
    fn encode(&self, out: &mut Vec<u8>) {
        use io::Write as _;
        let Self { sequence, at, source, text } = self;
        writeln!(out, "{sequence} {} {} {text}", at.0, source.letter())
            .expect("writing to memory does not fail");
    }

    /// `None` for what no writer wrote, such as a torn line.
    fn decode(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
        let mut fields = line.splitn(4, ' ');
        let sequence = fields.next()?.parse().ok()?;
        let at = Timestamp(fields.next()?.parse().ok()?);
        let source = match fields.next()? {
            "o" => Source::Stdout,
            "e" => Source::Stderr,
            "c" => Source::Convoke,
            _ => return None,
        };
        Some(Self { sequence, at, source, text: fields.next()?.to_owned() })
    }
}

/// What a spool's directory holds.
#[derive(Debug, Default)]
struct Listing {
    /// First line number of each segment, oldest first.
    segments: Vec<u64>,
    /// The number after the last line, once sealed.
    end: Option<u64>,
}

const WRITING: &str = "writing";

fn segment_name(first: u64) -> String {
    format!("{first:020}.log")
}

fn end_name(next: u64) -> String {
    format!("end-{next:020}")
}

/// An absent directory is an empty spool that more may come to.
fn list(dir: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(listing),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if let Some(first) = name.strip_suffix(".log").and_then(|n| n.parse().ok()) {
            listing.segments.push(first);
        } else if let Some(next) = name.strip_prefix("end-").and_then(|n| n.parse().ok()) {
            listing.end = Some(next);
        }
    }
    listing.segments.sort_unstable();
    Ok(listing)
}

/// The largest prefix length of at most `max` bytes that does not cut a character of `bytes`,
/// where it is UTF-8.
pub(crate) fn cut(bytes: &[u8], max: usize) -> usize {
    if bytes.len() <= max {
        return bytes.len();
    }
    // A character has at most three continuation bytes.
    (max.saturating_sub(3)..=max).rev().find(|&i| bytes[i] & 0xC0 != 0x80).unwrap_or(max)
}

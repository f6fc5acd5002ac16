//! A task's output on disk: a bounded run of numbered lines, written by one process and read by
//! another.
//!
//! Lines are numbered from 0. When the bound is reached the oldest segment goes: a reader sees a
//! jump of the numbers, and the newest lines are never the ones dropped.

mod reader;
mod tail;
mod writer;

use convoke_model::Timestamp;

pub use reader::Reader;
pub use tail::LineTail;
pub use writer::Writer;

/// Longer lines are split.
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

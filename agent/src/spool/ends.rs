//! Where each source's lines end in a spool, so that its origin can be read on from there.

use convoke_model::Timestamp;

use super::Source;

/// The last instant at which a source said something, and how many of its lines bear that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub at: Timestamp,
    pub lines: u64,
}

/// `None`: the source has no lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ends {
    pub stdout: Option<End>,
    pub stderr: Option<End>,
}

impl Ends {
    /// Counts one more line, whose source must not have gone back in time for it to be right.
    pub(crate) fn count(&mut self, source: Source, at: Timestamp) {
        let end = match source {
            Source::Stdout => &mut self.stdout,
            Source::Stderr => &mut self.stderr,
            Source::Convoke => return,
        };
        *end = match *end {
            Some(End { at: same, lines }) if same == at => Some(End { at, lines: lines + 1 }),
            _ => Some(End { at, lines: 1 }),
        };
    }

    /// The newest of both.
    pub fn newest(&self) -> Option<Timestamp> {
        self.stdout.into_iter().chain(self.stderr).map(|end| end.at).max()
    }
}

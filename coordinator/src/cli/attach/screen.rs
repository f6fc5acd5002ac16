//! The terminal while jobs are followed: lines scroll, progress bars stay below them.

use indicatif::{MultiProgress, ProgressBar};

use crate::cli::failure::Failure;
use crate::cli::output::{self, Format};

/// Clones share one terminal.
#[derive(Clone)]
pub(crate) struct Screen {
    pub(crate) format: Format,
    bars: MultiProgress,
}

impl Screen {
    /// Bars are hidden where stderr is no terminal.
    pub(crate) fn new(format: Format) -> Self {
        Self { format, bars: MultiProgress::new() }
    }

    /// Lines for people, on stdout.
    pub(crate) fn lines(&self, lines: &[String]) -> Result<(), Failure> {
        self.bars.suspend(|| lines.iter().try_for_each(|text| output::line(text)))
    }

    /// What Convoke itself says: on stderr, or as a `notice` of the JSON stream.
    pub(crate) fn note(&self, text: &str) {
        if self.format.is_json() {
            // The next record tells that the reader is gone.
            let _ = output::record(&serde_json::json!({ "notice": text }));
        } else {
            self.bars.suspend(|| output::note(text));
        }
    }

    pub(crate) fn bar(&self, bar: ProgressBar) -> ProgressBar {
        if self.format.is_json() { ProgressBar::hidden() } else { self.bars.add(bar) }
    }
}

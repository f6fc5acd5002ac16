//! The terminal while jobs are followed: lines scroll, progress bars stay below them.

use indicatif::{MultiProgress, ProgressBar};
use serde_json::Value;

use crate::cli::failure::Failure;
use crate::cli::output::{self, Format};

/// Clones share one terminal.
#[derive(Clone)]
pub(crate) struct Screen {
    pub(crate) format: Format,
    /// The answer is a stream, which what Convoke says is part of.
    stream: bool,
    bars: MultiProgress,
}

impl Screen {
    /// Bars are hidden where stderr is no terminal.
    pub(crate) fn new(format: Format) -> Self {
        Self { format, stream: true, bars: MultiProgress::new() }
    }

    /// For a command whose answer is one document: what is said goes to stderr.
    pub(crate) fn beside_a_document(format: Format) -> Self {
        Self { stream: false, ..Self::new(format) }
    }

    /// Lines for people, on stdout.
    pub(crate) fn lines(&self, lines: &[String]) -> Result<(), Failure> {
        self.bars.suspend(|| lines.iter().try_for_each(|text| output::line(text)))
    }

    /// What Convoke itself says: on stderr, or as a `notice` of the JSON stream.
    pub(crate) fn note(&self, text: &str) {
        self.tell("notice", &Value::from(text), text);
    }

    /// The same, where programs get more than a sentence: `value`, named `key`.
    pub(crate) fn tell(&self, key: &str, value: &Value, text: &str) {
        if self.format.is_json() && self.stream {
            // The next record tells that the reader is gone.
            let _ = output::record(&serde_json::json!({ key: value }));
        } else {
            self.bars.suspend(|| output::note(text));
        }
    }

    /// That something long begins, where no bar shows it.
    pub(crate) fn begin(&self, text: &str) {
        if !self.format.is_json() && self.bars.is_hidden() {
            output::note(text);
        }
    }

    pub(crate) fn bar(&self, bar: ProgressBar) -> ProgressBar {
        if self.format.is_json() { ProgressBar::hidden() } else { self.bars.add(bar) }
    }
}

//! What is said about a job file: problems that refuse it, and notes that don't.

use std::fmt;
use std::sync::Arc;

/// A position in a file, as an editor counts it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file as seen from the user's directory; the whole path where it is not below.
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Something that must be changed before the job file can be used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// None for what no file says (a flag, the environment).
    pub place: Option<Place>,
    /// The key, as `services.train.ports[0]`; empty for a whole file.
    pub path: String,
    pub message: String,
}

/// Something worth knowing that stops nothing: a key without effect, an unset variable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    pub place: Option<Place>,
    pub path: String,
    pub message: String,
}

fn show(f: &mut fmt::Formatter<'_>, place: Option<&Place>, path: &str, message: &str) -> fmt::Result {
    if let Some(place) = place {
        write!(f, "{place}: ")?;
    }
    if !path.is_empty() {
        write!(f, "{path}: ")?;
    }
    f.write_str(message)
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.place.as_ref(), &self.path, &self.message)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.place.as_ref(), &self.path, &self.message)
    }
}

/// All problems of a load, in the order of the files' lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComposeErrors(pub Vec<Problem>);

impl fmt::Display for ComposeErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ComposeErrors {}

/// Collects while a load goes on, so that one run shows everything.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) problems: Vec<Problem>,
    pub(crate) notes: Vec<Note>,
}

impl Report {
    pub(crate) fn problem(
        &mut self,
        place: Option<&Place>,
        path: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.problems.push(Problem { place: place.cloned(), path: path.into(), message: message.into() });
    }

    pub(crate) fn note(
        &mut self,
        place: Option<&Place>,
        path: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.notes.push(Note { place: place.cloned(), path: path.into(), message: message.into() });
    }

    /// The problems so far as an error, or nothing.
    pub(crate) fn check(&mut self) -> Result<(), ComposeErrors> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let mut problems = std::mem::take(&mut self.problems);
        // Stable, so that problems of one place stay in the order in which they were found. A
        // value reached through several aliases says the same thing once.
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        problems.dedup();
        Err(ComposeErrors(problems))
    }
}

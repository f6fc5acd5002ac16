//! What the processes said: for people when a test fails, and for the rule that a story announces
//! every warning that it causes.

use std::fs;
use std::path::Path;

/// What the coordinator says where it got no processor for a while: it is the machine that is busy.
const STARVED: &str = "the coordinator did not run for ";

/// A line that belongs to a story.
#[derive(Debug, Clone)]
pub struct Announced {
    /// Whose log it is in.
    pub process: String,
    /// A part of it.
    pub text: String,
}

/// Lines at level WARN or ERROR, and panics, that are neither `announced` nor about a starved machine;
/// each with the name of its log.
pub fn complaints(logs: &Path, announced: &[Announced]) -> Vec<String> {
    let is_it = |line: &str, announced: &Announced| {
        let line = line.strip_prefix(&announced.process).and_then(|rest| rest.strip_prefix(": "));
        line.is_some_and(|line| line.contains(&announced.text))
    };
    let starved = Announced { process: "coordinator".to_owned(), text: STARVED.to_owned() };
    let unannounced = |line: &&String| !announced.iter().chain([&starved]).any(|a| is_it(line, a));
    let complaint = |line: &&String| {
        line.contains("panicked at") || line.split_whitespace().take(4).any(|w| w == "WARN" || w == "ERROR")
    };
    all(logs).iter().filter(complaint).filter(unannounced).cloned().collect()
}

/// Every line, with the name of its log.
pub fn all(logs: &Path) -> Vec<String> {
    let mut files: Vec<_> = fs::read_dir(logs).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read(&file).unwrap_or_default();
        lines.extend(String::from_utf8_lossy(&text).lines().map(|line| format!("{name}: {line}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_errors_and_panics_are_complaints_unless_announced() {
        let logs = tempfile::tempdir().unwrap();
        let text = "2026-01-01T00:00:00Z  INFO a: fine, no ERROR here\n\
                    2026-01-01T00:00:00Z  WARN a: node lost\n\
                    2026-01-01T00:00:00Z ERROR a: disk full\n\
                    thread 'main' panicked at x.rs:1:1:\n";
        fs::write(logs.path().join("agent-1.log"), text).unwrap();
        let starved =
            "2026-01-01T00:00:00Z  WARN a: the coordinator did not run for 3 s; no node is judged\n";
        fs::write(logs.path().join("coordinator.log"), starved).unwrap();
        let announced =
            |process: &str| Announced { process: process.to_owned(), text: "node lost".to_owned() };
        assert_eq!(complaints(logs.path(), &[announced("agent-2")]).len(), 3);
        let found = complaints(logs.path(), &[announced("agent-1")]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("agent-1: ") && found[0].ends_with("disk full"));
        assert!(found[1].contains("panicked"));
    }
}

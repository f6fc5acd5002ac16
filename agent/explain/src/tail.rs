//! A task's last lines, bounded and cleaned: no colours, no progress bar's earlier states, and the
//! prefix that torchrun and PyTorch put before a worker's lines taken off and remembered.

use crate::{Line, Source};

/// More lines than a long traceback of each of 8 workers; what is before them is not read.
pub const MAX_LINES: usize = 400;
/// The longest message that a rule reads, PyTorch's on CUDA memory, has 700 bytes.
pub const MAX_LINE: usize = 1024;

/// Which worker of the task said a line, where the line says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Worker {
    Rank(u32),
    LocalRank(u32),
}

/// A cleaned line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) source: Source,
    pub(crate) worker: Option<Worker>,
    pub(crate) text: String,
}

/// The last [`MAX_LINES`] lines, cleaned.
pub(crate) fn clean(tail: &[Line<'_>]) -> Vec<Said> {
    let from = tail.len().saturating_sub(MAX_LINES);
    tail[from..].iter().map(said).collect()
}

fn said(line: &Line<'_>) -> Said {
    let plain = plain(line.text);
    let (worker, text) = without_prefix(&plain);
    Said { source: line.source, worker, text: cut(text, MAX_LINE).trim_end().to_owned() }
}

/// The start of `text`, at most `bytes` long.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// What a terminal would show of it: without escape sequences and control characters, and only
/// what was written after the last carriage return.
fn plain(text: &str) -> String {
    let text = text.trim_end_matches('\r');
    let text = text.rsplit('\r').next().unwrap_or(text);
    // With its colours a line is longer than what is shown of it; this much is enough to look at.
    let text = cut(text, 4 * MAX_LINE);
    let mut shown = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\u{1b}' => skip_escape(&mut chars),
            '\t' => shown.push('\t'),
            c if c.is_control() => {}
            c => shown.push(c),
        }
    }
    shown
}

/// Skips the rest of an escape sequence: `[`, parameters, a letter; or one character.
fn skip_escape(chars: &mut std::str::Chars<'_>) {
    if chars.next() == Some('[') {
        for char in chars {
            if ('@'..='~').contains(&char) {
                return;
            }
        }
    }
}

/// Takes off `[default1]:` (torchrun's, by local rank) and `[rank1]: ` (PyTorch's), in any number.
fn without_prefix(text: &str) -> (Option<Worker>, &str) {
    let mut worker = None;
    let mut rest = text;
    while let Some((found, after)) = prefix(rest) {
        worker = Some(found);
        rest = after;
    }
    (worker, rest)
}

fn prefix(text: &str) -> Option<(Worker, &str)> {
    let (inside, rest) = text.strip_prefix('[')?.split_once("]:")?;
    let role = inside.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = inside[role.len()..].parse().ok()?;
    match role {
        "rank" => Some((Worker::Rank(number), rest.strip_prefix(' ').unwrap_or(rest))),
        role if role.chars().all(|c| c.is_ascii_alphabetic() || c == '_') => {
            Some((Worker::LocalRank(number), rest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(text: &str) -> (Option<Worker>, String) {
        let said = said(&Line { source: Source::Stderr, text });
        (said.worker, said.text)
    }

    #[test]
    fn a_workers_prefixes_are_taken_off_and_its_indentation_stays() {
        let line = "[default1]:[rank5]:   File \"train.py\", line 8";
        assert_eq!(cleaned(line), (Some(Worker::Rank(5)), "  File \"train.py\", line 8".to_owned()));
        assert_eq!(cleaned("[trainer0]:    x = 1"), (Some(Worker::LocalRank(0)), "    x = 1".to_owned()));
        assert_eq!(cleaned("[0]:loss 3").0, Some(Worker::LocalRank(0)));
        for not_one in ["[W1124 11:19:26.9]: x", "[rank]: x", "[c10d] x", "[99999999999]: x", "[1]"] {
            assert_eq!(cleaned(not_one), (None, not_one.to_owned()));
        }
    }

    #[test]
    fn colours_and_a_progress_bars_earlier_states_are_not_seen() {
        assert_eq!(cleaned("\u{1b}[1;31mValueError\u{1b}[0m: x\0").1, "ValueError: x");
        assert_eq!(cleaned("10%|#\r50%|#####\r").1, "50%|#####");
        assert_eq!(cleaned("cut off \u{1b}[3").1, "cut off");
    }

    #[test]
    fn only_the_end_is_read_and_only_the_start_of_a_line() {
        let long = "é".repeat(MAX_LINE);
        let lines = vec![Line { source: Source::Stdout, text: &long }; 3 * MAX_LINES];
        let cleaned = clean(&lines);
        assert_eq!(cleaned.len(), MAX_LINES);
        assert!(cleaned.iter().all(|said| said.text.len() == MAX_LINE));
    }
}

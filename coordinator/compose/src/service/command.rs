//! `command` and `entrypoint`: a string of words, or a list.

use super::words;
use crate::cursor::Cursor;
use crate::report::Report;

/// Words that mean something to a shell, and nothing to a program that is started without one.
const SHELL_WORDS: [&str; 9] = ["&&", "||", ";", "|", "&", ">", ">>", "<", "2>&1"];

/// An argument vector; `None` when the key is absent.
pub(super) fn argv(at: Option<Cursor<'_>>, report: &mut Report) -> Option<Vec<String>> {
    let at = at?;
    if !at.is_scalar() {
        return Some(at.strings(report));
    }
    let text = at.text(report)?;
    let Some(words) = words::split(text) else {
        at.refuse(report, "has an unclosed quote, or ends in a backslash");
        return None;
    };
    if let Some(word) = words.iter().find(|w| SHELL_WORDS.contains(&w.as_str())) {
        at.note(
            report,
            format!(
                "no shell reads this, so \"{word}\" is passed as an argument; for a shell write \
                 [\"sh\", \"-c\", \"…\"]"
            ),
        );
    }
    // What is left of a shell's line continuation once YAML has folded the lines.
    if text.contains("\\ ")
        && let Some(word) = words.iter().find(|w| w.starts_with(' '))
    {
        at.note(
            report,
            format!(
                "the backslash before \"{word}\" keeps the space in front of it, so it is passed as an \
                 argument that starts with a space; folded lines need no backslash, remove it"
            ),
        );
    }
    Some(words)
}

//! `command` and `entrypoint`: shell words or lists.

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
    let Some(words) = shlex::split(text) else {
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
    Some(words)
}

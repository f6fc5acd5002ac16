//! Compose's way to cut a `command` string into words: a shell's quotes, and nothing else of a shell.
//!
//! `#` is a character like any other, as it is to every Compose; a program's own script goes through
//! `sh -c` and is cut there. A backslash before a line's end joins the lines, as in a shell, where
//! Compose would pass the line break on as an argument.

/// The words of `text`; `None` when a quote is never closed or the last character is a backslash.
pub(super) fn split(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    // None is between words: `''` is a word, and nothing is none.
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\'' => single_quoted(&mut chars, word.get_or_insert_default())?,
            '"' => double_quoted(&mut chars, word.get_or_insert_default())?,
            '\\' => match chars.next()? {
                '\n' => {}
                c => word.get_or_insert_default().push(c),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

/// Up to the closing quote, as written.
fn single_quoted(chars: &mut std::str::Chars<'_>, word: &mut String) -> Option<()> {
    loop {
        match chars.next()? {
            '\'' => return Some(()),
            c => word.push(c),
        }
    }
}

/// Up to the closing quote. A backslash takes the meaning of the few characters that have one there,
/// and is itself before any other.
fn double_quoted(chars: &mut std::str::Chars<'_>, word: &mut String) -> Option<()> {
    loop {
        match chars.next()? {
            '"' => return Some(()),
            '\\' => match chars.next()? {
                '\n' => {}
                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quotes_join_and_hashes_are_no_comments() {
        for (text, words) in [
            ("train.py --tag #1 # x", &["train.py", "--tag", "#1", "#", "x"][..]),
            ("a '' \"\" b", &["a", "", "", "b"]),
            ("a\\ b 'c d'\"e f\"", &["a b", "c de f"]),
            ("torchrun \\\n  train.py\r\n", &["torchrun", "train.py"]),
            (r#"sh -c "echo \"\$HOME\" \n""#, &["sh", "-c", r#"echo "$HOME" \n"#]),
            ("", &[]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
        for text in ["'", "a \"b", "a\\", "\"\\"] {
            assert_eq!(split(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_text_without_hashes_is_cut_as_a_shell_cuts_it(text in "[ab$`\"'\\\\ \t]{0,24}") {
            prop_assert_eq!(split(&text), shlex::split(&text));
        }
    }
}

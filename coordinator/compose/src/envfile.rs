//! Environment files, as Compose reads them: `KEY=value` lines, comments, `export`, single quotes
//! (literal) and double quotes (escapes), values over several lines in quotes, and substitution
//! from the environment and from the lines above.
//!
//! The `.env` crates of the Rust world read the process's own environment and refuse unquoted
//! spaces and `${VAR:-default}`, all of which Compose files in the wild use.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::interpolate::interpolate;
use crate::report::{Place, Problem};

/// A variable of an environment file; without a value it takes the environment's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    pub(crate) place: Place,
}

/// Reads one file. `raw` is Compose's `format: raw`: no quotes, no substitution.
pub(crate) fn parse(
    file: &Arc<str>,
    bytes: &[u8],
    raw: bool,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Variable>, Problem> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).replace("\r\n", "\n");
    let mut reader = Reader { file, rest: &text, line: 1, earlier: BTreeMap::new(), environment };
    let mut variables = Vec::new();
    while let Some((key, place)) = reader.key()? {
        let value = reader.value(raw, &place)?;
        if let Some(value) = &value {
            reader.earlier.insert(key.clone(), value.clone());
        }
        variables.push(Variable { key, value, place });
    }
    Ok(variables)
}

struct Reader<'a> {
    file: &'a Arc<str>,
    rest: &'a str,
    line: usize,
    earlier: BTreeMap<String, String>,
    environment: &'a dyn Fn(&str) -> Option<String>,
}

impl Reader<'_> {
    fn place(&self) -> Place {
        Place { file: self.file.clone(), line: self.line, column: 1 }
    }

    fn refuse<T>(place: Place, message: impl Into<String>) -> Result<T, Problem> {
        Err(Problem { place: Some(place), path: String::new(), message: message.into() })
    }

    fn advance(&mut self, bytes: usize) {
        self.line += self.rest[..bytes].matches('\n').count();
        self.rest = &self.rest[bytes..];
    }

    fn end_of_line(&self) -> usize {
        self.rest.find('\n').unwrap_or(self.rest.len())
    }

    /// The next line's key, past comments and empty lines.
    fn key(&mut self) -> Result<Option<(String, Place)>, Problem> {
        loop {
            let blank = self.rest.find(|c: char| !c.is_whitespace()).unwrap_or(self.rest.len());
            self.advance(blank);
            if self.rest.is_empty() {
                return Ok(None);
            }
            if !self.rest.starts_with('#') {
                break;
            }
            self.advance(self.end_of_line());
        }
        let place = self.place();
        if let Some(after) = self.rest.strip_prefix("export")
            && after.starts_with([' ', '\t'])
        {
            self.advance(self.rest.len() - after.trim_start_matches([' ', '\t']).len());
        }
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']');
        let end = self.rest.find(|c| !good(c)).unwrap_or(self.rest.len());
        let key = self.rest[..end].to_owned();
        let line = self.rest[..self.end_of_line()].trim();
        let shown: String = line.chars().take(40).collect();
        let after = self.rest[end..self.end_of_line()].trim_start_matches([' ', '\t']);
        if key.is_empty() || !(after.is_empty() || after.starts_with(['=', ':', '#'])) {
            return Self::refuse(place, format!("\"{shown}\" is not a KEY=value line"));
        }
        self.advance(end);
        Ok(Some((key, place)))
    }

    /// The value after a key; `None` when the line has none.
    fn value(&mut self, raw: bool, place: &Place) -> Result<Option<String>, Problem> {
        let blanks = self.rest.len() - self.rest.trim_start_matches([' ', '\t']).len();
        self.advance(blanks);
        if !self.rest.starts_with(['=', ':']) {
            self.advance(self.end_of_line());
            return Ok(None);
        }
        self.advance(1);
        if raw {
            let end = self.end_of_line();
            let value = self.rest[..end].to_owned();
            self.advance(end);
            return Ok(Some(value));
        }
        let blanks = self.rest.len() - self.rest.trim_start_matches([' ', '\t']).len();
        self.advance(blanks);
        let value = match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => self.quoted(quote, place)?,
            _ => self.unquoted(),
        };
        match value {
            (text, true) => self.filled(&text, place).map(Some),
            (text, false) => Ok(Some(text)),
        }
    }

    fn unquoted(&mut self) -> (String, bool) {
        let end = self.end_of_line();
        let line = &self.rest[..end];
        let comment = line
            .char_indices()
            .find(|(i, c)| *c == '#' && line[..*i].chars().last().is_none_or(char::is_whitespace))
            .map_or(line.len(), |(i, _)| i);
        let value = line[..comment].trim_end().to_owned();
        self.advance(end);
        (value, true)
    }

    /// A quoted value, and whether it takes substitution.
    fn quoted(&mut self, quote: char, place: &Place) -> Result<(String, bool), Problem> {
        self.advance(1);
        let mut value = String::new();
        let mut chars = self.rest.char_indices();
        let end = loop {
            match chars.next() {
                None => {
                    return Self::refuse(
                        place.clone(),
                        format!("the value's opening {quote} is never closed"),
                    );
                }
                Some((i, c)) if c == quote => break i,
                Some((_, '\\')) => match chars.next() {
                    Some((_, c)) if quote == '\'' && c != '\'' => value.extend(['\\', c]),
                    Some((_, 'n')) if quote == '"' => value.push('\n'),
                    Some((_, 'r')) if quote == '"' => value.push('\r'),
                    Some((_, 't')) if quote == '"' => value.push('\t'),
                    // Doubled, so that the substitution that follows gives it back.
                    Some((_, '$')) if quote == '"' => value.push_str("$$"),
                    Some((_, c)) => value.push(c),
                    None => {}
                },
                Some((_, c)) => value.push(c),
            }
        };
        self.advance(end + 1);
        let after = self.rest[..self.end_of_line()].trim();
        if !after.is_empty() && !after.starts_with('#') {
            return Self::refuse(self.place(), format!("unexpected text after the closing {quote}"));
        }
        self.advance(self.end_of_line());
        Ok((value, quote == '"'))
    }

    fn filled(&self, text: &str, place: &Place) -> Result<String, Problem> {
        let lookup = |name: &str| (self.environment)(name).or_else(|| self.earlier.get(name).cloned());
        match interpolate(text, &lookup) {
            Ok(filled) => Ok(filled.text),
            Err(e) => Self::refuse(place.clone(), e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Vec<(String, Option<String>)>, String> {
        let environment = |name: &str| (name == "HOST").then(|| "h".to_owned());
        parse(&Arc::from("x.env"), text.as_bytes(), false, &environment)
            .map(|all| all.into_iter().map(|v| (v.key, v.value)).collect())
            .map_err(|p| p.to_string())
    }

    #[test]
    fn what_compose_reads_is_read() {
        let text = "# c\n\nA=1\nexport B = two words # c\nC='$A #'\nD=\"a\\n$A\\$\"\r\nE=\nF\nG=x#y\n\
                    H: y\nI=${Z:-${HOST}}\nJ=\"two\nlines\" # c\nexport=1\n";
        let got = read(text).unwrap();
        let expected = [
            ("A", Some("1")),
            ("B", Some("two words")),
            ("C", Some("$A #")),
            ("D", Some("a\n1$")),
            ("E", Some("")),
            ("F", None),
            ("G", Some("x#y")),
            ("H", Some("y")),
            ("I", Some("h")),
            ("J", Some("two\nlines")),
            ("export", Some("1")),
        ];
        let expected: Vec<_> =
            expected.iter().map(|(k, v)| ((*k).to_owned(), v.map(ToOwned::to_owned))).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn a_bad_line_is_refused_with_its_number() {
        assert_eq!(read("A=1\n\"x\ny\"=2\n").unwrap_err(), "x.env:2: \"\"x\" is not a KEY=value line");
        assert_eq!(read("A=1\nB C=2\n").unwrap_err(), "x.env:2: \"B C=2\" is not a KEY=value line");
        assert_eq!(read("A=\"x\n").unwrap_err(), "x.env:1: the value's opening \" is never closed");
        assert!(read("A='x' y\n").unwrap_err().contains("x.env:1: unexpected text"));
        assert!(read("A=1\n\nB=${X:?set X}\n").unwrap_err().starts_with("x.env:3: required variable X"));
    }

    #[test]
    fn a_raw_file_is_taken_as_it_stands() {
        let got = parse(&Arc::from("x"), b"A='$B' # c\n", true, &|_| None).unwrap();
        assert_eq!(got[0].value.as_deref(), Some("'$B' # c"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&Arc::from("x"), &bytes, false, &|_| None);
        }

        #[test]
        fn any_soup_of_marks_is_read_or_refused(text in "[A=:'\"\\\\#${} \n]{0,60}") {
            let _ = parse(&Arc::from("x"), text.as_bytes(), false, &|_| None);
        }
    }
}

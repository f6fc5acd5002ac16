//! Reading typed values out of the tree: each miss is a problem with the place and the key.

use std::str::FromStr;
use std::time::Duration;

use crate::report::Report;
use crate::tree::{Entry, Node, Value};
use crate::units;

/// A value, and the key path that leads to it.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    pub(crate) node: &'a Node,
    pub(crate) path: String,
}

/// Real Compose keys that have no meaning here, with what to do instead.
pub(crate) type Unsupported = [(&'static str, &'static str)];

impl<'a> Cursor<'a> {
    pub(crate) fn new(node: &'a Node, path: impl Into<String>) -> Self {
        Self { node, path: path.into() }
    }

    pub(crate) fn refuse(&self, report: &mut Report, message: impl Into<String>) {
        report.problem(Some(&self.node.place), &self.path, message);
    }

    pub(crate) fn note(&self, report: &mut Report, message: impl Into<String>) {
        report.note(Some(&self.node.place), &self.path, message);
    }

    fn expected<T>(&self, report: &mut Report, what: &str) -> Option<T> {
        let found = match &self.node.value {
            Value::Scalar(text) => format!("\"{}\"", text.chars().take(40).collect::<String>()),
            _ => self.node.kind().to_owned(),
        };
        self.refuse(report, format!("expected {what}, found {found}"));
        None
    }

    /// A map's key, when it is there and not null.
    pub(crate) fn get(&self, key: &str) -> Option<Cursor<'a>> {
        let node = self.node.get(key)?;
        (node.value != Value::Null).then(|| Cursor::new(node, self.child(key)))
    }

    fn child(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A map's entries; nothing for null.
    pub(crate) fn entries(&self, report: &mut Report) -> Vec<(&'a Entry, Cursor<'a>)> {
        match &self.node.value {
            Value::Map(entries) => {
                entries.iter().map(|e| (e, Cursor::new(&e.node, self.child(&e.key)))).collect()
            }
            Value::Null => Vec::new(),
            _ => self.expected::<()>(report, "a map").map_or_else(Vec::new, |()| Vec::new()),
        }
    }

    /// A list's items; nothing for null.
    pub(crate) fn items(&self, report: &mut Report, of: &str) -> Vec<Cursor<'a>> {
        match &self.node.value {
            Value::List(items) => self.indexed(items),
            Value::Null => Vec::new(),
            _ => {
                self.expected::<()>(report, &format!("a list of {of}"));
                Vec::new()
            }
        }
    }

    fn indexed(&self, items: &'a [Node]) -> Vec<Cursor<'a>> {
        let at = |(i, n)| Cursor::new(n, format!("{}[{i}]", self.path));
        items.iter().enumerate().map(at).collect()
    }

    /// A list's items, or a single value as the only one.
    pub(crate) fn one_or_more(&self, report: &mut Report, of: &str) -> Vec<Cursor<'a>> {
        match &self.node.value {
            Value::Scalar(_) => vec![self.clone()],
            _ => self.items(report, of),
        }
    }

    pub(crate) fn is_scalar(&self) -> bool {
        matches!(self.node.value, Value::Scalar(_))
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    pub(crate) fn text(&self, report: &mut Report) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar(text) => Some(text),
            _ => self.expected(report, "a string"),
        }
    }

    pub(crate) fn string(&self, report: &mut Report) -> Option<String> {
        self.text(report).map(ToOwned::to_owned)
    }

    pub(crate) fn strings(&self, report: &mut Report) -> Vec<String> {
        self.items(report, "strings").iter().filter_map(|c| c.string(report)).collect()
    }

    /// `what` describes the number: "a whole number from 0 on".
    pub(crate) fn number<T: FromStr>(&self, report: &mut Report, what: &str) -> Option<T> {
        match self.node.as_str().map(|t| t.trim().parse()) {
            Some(Ok(number)) => Some(number),
            _ => self.expected(report, what),
        }
    }

    pub(crate) fn count(&self, report: &mut Report) -> Option<u32> {
        self.number(report, "a whole number from 0 on")
    }

    pub(crate) fn boolean(&self, report: &mut Report) -> Option<bool> {
        match self.node.as_str().map(str::to_ascii_lowercase).as_deref() {
            Some("true" | "yes" | "on" | "y") => Some(true),
            Some("false" | "no" | "off" | "n") => Some(false),
            _ => self.expected(report, "true or false"),
        }
    }

    pub(crate) fn duration(&self, report: &mut Report) -> Option<Duration> {
        match self.node.as_str().and_then(units::duration) {
            Some(duration) => Some(duration),
            None => self.expected(report, "a duration with units, such as 1m30s"),
        }
    }

    pub(crate) fn bytes(&self, report: &mut Report) -> Option<u64> {
        match self.node.as_str().and_then(units::bytes) {
            Some(bytes) => Some(bytes),
            None => self.expected(report, "a size in bytes, such as 512m or 16gb"),
        }
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&self, report: &mut Report, words: &[(&str, T)]) -> Option<T> {
        let found = self.node.as_str().and_then(|t| words.iter().find(|(word, _)| *word == t));
        if let Some((_, value)) = found {
            return Some(*value);
        }
        let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let what = match names.as_slice() {
            [one] => format!("\"{one}\""),
            [head @ .., last] => format!("{} or {last}", head.join(", ")),
            [] => "nothing".to_owned(),
        };
        self.expected(report, &what)
    }

    /// Compose's list-or-map of strings: `KEY=value` items, or a map. A key without a value is
    /// `None`. In file order.
    pub(crate) fn pairs(&self, report: &mut Report) -> Vec<(String, Option<String>, Cursor<'a>)> {
        if self.is_map() {
            let entries = self.entries(report);
            return entries
                .into_iter()
                .filter_map(|(entry, cursor)| match &cursor.node.value {
                    Value::Null => Some((entry.key.clone(), None, cursor)),
                    _ => cursor.string(report).map(|v| (entry.key.clone(), Some(v), cursor)),
                })
                .collect();
        }
        let items = self.items(report, "KEY=value strings, or a map");
        let pair = |cursor: Cursor<'a>| {
            let text = cursor.text(report)?;
            Some(match text.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned()), cursor),
                None => (text.to_owned(), None, cursor),
            })
        };
        items.into_iter().filter_map(pair).collect()
    }

    /// Refuses every key that is not `known`; `x-` keys are the user's own.
    pub(crate) fn only(&self, report: &mut Report, known: &[&str], unsupported: &Unsupported) {
        for (entry, _) in self.entries(report) {
            let key = entry.key.as_str();
            if known.contains(&key) {
                continue;
            }
            if key.starts_with("x-") {
                // Not refused: Compose gives these keys to the user. But a slip here loses settings.
                if known.contains(&EXTENSION)
                    && key.len() < 40
                    && strsim::damerau_levenshtein(key, EXTENSION) <= 2
                {
                    let message =
                        format!("\"{key}\" is taken for your own and ignored; did you mean \"{EXTENSION}\"?");
                    report.note(Some(&entry.place), &self.path, message);
                }
                continue;
            }
            let message = match unsupported.iter().find(|(name, _)| *name == key) {
                Some((_, advice)) => format!("\"{key}\" is not supported by Convoke: {advice}"),
                None => unknown(key, known, unsupported),
            };
            report.problem(Some(&entry.place), &self.path, message);
        }
    }
}

/// The key that holds what Compose has no word for.
const EXTENSION: &str = "x-convoke";

fn unknown(key: &str, known: &[&str], unsupported: &Unsupported) -> String {
    // No key is that long, and the distance costs the product of the lengths.
    if key.len() > 40 {
        let start: String = key.chars().take(40).collect();
        return format!("unknown key \"{start}…\"; known here: {}", known.join(", "));
    }
    let names = known.iter().chain(unsupported.iter().map(|(name, _)| name));
    let nearest = names
        .map(|name| (strsim::damerau_levenshtein(key, name), *name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 4)
        .min();
    match nearest {
        Some((_, name)) => format!("unknown key \"{key}\"; did you mean \"{name}\"?"),
        None => format!("unknown key \"{key}\"; known here: {}", known.join(", ")),
    }
}

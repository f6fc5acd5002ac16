//! YAML text to a [tree](crate::tree) in which every key and value keeps its place.
//!
//! Aliases and merge keys are resolved here.
//! Refused, with the line: syntax errors, duplicate keys, keys that are not strings, several
//! documents, and files whose nesting or alias expansion goes beyond any honest job file.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use crate::report::{Place, Problem};
use crate::tree::{Entry, MergeTag, Node, Value};

/// Compose files nest some ten levels deep; the bound keeps recursion over the tree harmless.
const MAX_DEPTH: usize = 64;
/// Bytes that a file may expand to through aliases, counting 64 a node: a thousand times a large
/// Compose file, and still nothing for memory.
const MAX_EXPANDED: usize = 32 << 20;
/// Bytes of one file.
const MAX_FILE: usize = 4 << 20;

/// Reads one document. The error holds everything that could be found wrong.
pub(crate) fn parse(file: &Arc<str>, bytes: &[u8]) -> Result<Node, Vec<Problem>> {
    let text = text_of(file, bytes).map_err(|p| vec![p])?;
    let mut builder = Builder::new(file.clone());
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            let place = builder.place(*e.marker());
            let hint = hint(text, place.line, e.info());
            vec![problem(place, format!("not valid YAML: {}{hint}", e.info()))]
        })?;
        builder.event(event, span.start).map_err(|p| vec![p])?;
    }
    if !builder.problems.is_empty() {
        return Err(builder.problems);
    }
    let start = Place { file: file.clone(), line: 1, column: 1 };
    match builder.root {
        Some(Weighed { node: Node { value: Value::Null, .. }, .. }) | None => {
            Err(vec![problem(start, "the file is empty; it needs at least a \"services\" key")])
        }
        Some(root) => Ok(root.node),
    }
}

/// What usually lies behind a syntax error.
fn hint(text: &str, line: usize, info: &str) -> &'static str {
    let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    if line.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t') {
        "; YAML is indented with spaces, never with tabs"
    } else if info.contains("expected key") || info.contains("indentation") {
        "; compare the indentation and the quotes of this line with the lines above"
    } else if info.contains("anchor") {
        "; an alias *name needs an anchor &name above it"
    } else {
        ""
    }
}

fn text_of<'a>(file: &Arc<str>, bytes: &'a [u8]) -> Result<&'a str, Problem> {
    let start = Place { file: file.clone(), line: 1, column: 1 };
    if bytes.len() > MAX_FILE {
        return Err(problem(start, format!("the file is larger than {} MiB", MAX_FILE >> 20)));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        let place = Place { line, ..start };
        problem(place, "not UTF-8 text; save the file as UTF-8")
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

fn problem(place: Place, message: impl Into<String>) -> Problem {
    Problem { place: Some(place), path: String::new(), message: message.into() }
}

/// A node with what it costs once aliases are expanded.
#[derive(Debug, Clone)]
struct Weighed {
    node: Node,
    bytes: usize,
    depth: usize,
}

/// A collection whose end has not been seen.
struct Open {
    place: Place,
    anchor: usize,
    merge: MergeTag,
    bytes: usize,
    depth: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<(Entry, bool)>, key: Option<Key> },
}

struct Key {
    text: String,
    place: Place,
    /// `<<` written plainly.
    merges: bool,
}

struct Builder {
    file: Arc<str>,
    open: Vec<Open>,
    anchors: HashMap<usize, Weighed>,
    root: Option<Weighed>,
    documents: usize,
    problems: Vec<Problem>,
    expanded: usize,
}

impl Builder {
    fn new(file: Arc<str>) -> Self {
        Self {
            file,
            open: Vec::new(),
            anchors: HashMap::new(),
            root: None,
            documents: 0,
            problems: Vec::new(),
            expanded: 0,
        }
    }

    fn place(&self, at: Marker) -> Place {
        Place { file: self.file.clone(), line: at.line().max(1), column: at.col() + 1 }
    }

    fn event(&mut self, event: Event<'_>, at: Marker) -> Result<(), Problem> {
        let place = self.place(at);
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(problem(
                        place,
                        "a second YAML document; a job file is one document (remove the \"---\")",
                    ));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                if let Some(wants) = self.wants_key() {
                    *wants = Some(Key {
                        merges: text == "<<" && style == ScalarStyle::Plain,
                        text: text.into_owned(),
                        place,
                    });
                    return Ok(());
                }
                let merge = self.tag(tag.as_deref(), &place);
                let text_tag = tag.is_some_and(|t| t.is_yaml_core_schema() && t.suffix == "str");
                let null = style == ScalarStyle::Plain
                    && !text_tag
                    && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null { Value::Null } else { Value::Scalar(text.into_owned()) };
                let bytes = 64 + if let Value::Scalar(text) = &value { text.len() } else { 0 };
                self.finish(anchor, Weighed { node: Node { place, value, merge }, bytes, depth: 1 })
            }
            Event::SequenceStart(anchor, tag) => {
                self.start(place, anchor, tag.as_deref(), Content::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                let content = Content::Map { entries: Vec::new(), key: None };
                self.start(place, anchor, tag.as_deref(), content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(id) => {
                let Some(bytes) = self.anchors.get(&id).map(|aliased| aliased.bytes) else {
                    return Err(problem(place, "an alias inside the value that it stands for"));
                };
                self.spend(bytes, &place)?;
                self.finish(0, self.anchors[&id].clone())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    /// Accounts for a copy of an anchored value.
    fn spend(&mut self, bytes: usize, place: &Place) -> Result<(), Problem> {
        self.expanded = self.expanded.saturating_add(bytes);
        if self.expanded > MAX_EXPANDED {
            let message = format!("the file's aliases expand to more than {} MiB", MAX_EXPANDED >> 20);
            return Err(problem(place.clone(), message));
        }
        Ok(())
    }

    /// The place for a key, when the innermost collection is a map that waits for one.
    fn wants_key(&mut self) -> Option<&mut Option<Key>> {
        match &mut self.open.last_mut()?.content {
            Content::Map { key, .. } if key.is_none() => Some(key),
            _ => None,
        }
    }

    fn tag(&mut self, tag: Option<&Tag>, place: &Place) -> MergeTag {
        match tag {
            None => MergeTag::None,
            Some(tag) if tag.is_yaml_core_schema() => MergeTag::None,
            Some(tag) if tag.handle == "!" && tag.suffix == "reset" => MergeTag::Reset,
            Some(tag) if tag.handle == "!" && tag.suffix == "override" => MergeTag::Override,
            Some(tag) => {
                self.problems.push(problem(
                    place.clone(),
                    format!("unknown tag {tag}; Compose knows !reset and !override"),
                ));
                MergeTag::None
            }
        }
    }

    fn start(
        &mut self,
        place: Place,
        anchor: usize,
        tag: Option<&Tag>,
        content: Content,
    ) -> Result<(), Problem> {
        if self.wants_key().is_some() {
            return Err(problem(place, "a key must be a string, not a list or a map"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(place));
        }
        let merge = self.tag(tag, &place);
        self.open.push(Open { place, anchor, merge, bytes: 64, depth: 1, content });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.content {
            Content::List(items) => Value::List(items),
            Content::Map { entries, .. } => Value::Map(self.merged(entries)),
        };
        let node = Node { place: open.place, value, merge: open.merge };
        self.finish(open.anchor, Weighed { node, bytes: open.bytes, depth: open.depth })
    }

    /// Puts a finished value where it belongs.
    fn finish(&mut self, anchor: usize, done: Weighed) -> Result<(), Problem> {
        if self.open.len() + done.depth > MAX_DEPTH {
            return Err(too_deep(done.node.place));
        }
        if anchor != 0 {
            let place = done.node.place.clone();
            self.spend(done.bytes, &place)?;
            self.anchors.insert(anchor, done.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(done);
            return Ok(());
        };
        open.bytes = open.bytes.saturating_add(done.bytes);
        open.depth = open.depth.max(done.depth + 1);
        match &mut open.content {
            Content::List(items) => items.push(done.node),
            Content::Map { entries, key } => {
                // The parser ends a map only after a value, and a complex key was refused.
                let Some(Key { text, place, merges }) = key.take() else {
                    return Err(problem(done.node.place, "a key must be a string, not an alias"));
                };
                entries.push((Entry { key: text, place, node: done.node }, merges));
            }
        }
        Ok(())
    }

    /// A map's entries with duplicates refused and `<<` filled in: own keys win, then the earlier
    /// of several merged maps.
    fn merged(&mut self, written: Vec<(Entry, bool)>) -> Vec<Entry> {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut entries = Vec::new();
        let mut merged = Vec::new();
        for (entry, merges) in written {
            if let Some(line) = seen.insert(entry.key.clone(), entry.place.line) {
                let message = format!("key \"{}\" is given twice, first on line {line}", entry.key);
                self.problems.push(problem(entry.place, message));
            } else if merges {
                self.collect_merge(entry.node, &mut merged);
            } else {
                entries.push(entry);
            }
        }
        for entry in merged {
            if seen.insert(entry.key.clone(), entry.place.line).is_none() {
                entries.push(entry);
            }
        }
        entries
    }

    fn collect_merge(&mut self, node: Node, merged: &mut Vec<Entry>) {
        match node.value {
            Value::Map(entries) => merged.extend(entries),
            Value::List(items) if items.iter().all(|n| matches!(n.value, Value::Map(_))) => {
                for item in items {
                    self.collect_merge(item, merged);
                }
            }
            _ => {
                let message = format!(
                    "\"<<\" merges a map or a list of maps, found {}; write an alias such as *defaults",
                    node.kind()
                );
                self.problems.push(problem(node.place, message));
            }
        }
    }
}

fn too_deep(place: Place) -> Problem {
    problem(place, format!("nested deeper than {MAX_DEPTH} levels"))
}

#[cfg(test)]
mod tests;

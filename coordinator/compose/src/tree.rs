//! A YAML document with places: what every stage of the reader works on.
//!
//! Scalars stay text: what `1e-3` or `3.10` means is for the key that holds it to say, and an
//! environment variable gets exactly what was written.

use crate::report::Place;

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
    pub(crate) merge: MergeTag,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

/// What Compose's own tags say about merging with the file before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum MergeTag {
    #[default]
    None,
    /// `!reset`: the key of the earlier file goes away.
    Reset,
    /// `!override`: this value replaces that of the earlier file.
    Override,
}

impl Node {
    pub(crate) fn map(place: Place) -> Self {
        Self { place, value: Value::Map(Vec::new()), merge: MergeTag::None }
    }

    pub(crate) fn scalar(place: Place, text: impl Into<String>) -> Self {
        Self { place, value: Value::Scalar(text.into()), merge: MergeTag::None }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.node),
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        match &mut self.value {
            Value::Map(entries) => entries.iter_mut().find(|e| e.key == key).map(|e| &mut e.node),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// The kind of value, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

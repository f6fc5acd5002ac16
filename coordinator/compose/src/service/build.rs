//! `build`, kept in Compose's long form as JSON for the submitter's Docker: `args` and `labels` as
//! maps, with the submitter's own variables filled in.

use serde_json::{Map, Value as Json};

use super::Scope;
use crate::cursor::Cursor;
use crate::files::from_home;
use crate::report::Report;
use crate::tree::{Node, Value};

const KNOWN: [&str; 22] = [
    "additional_contexts",
    "args",
    "cache_from",
    "cache_to",
    "context",
    "dockerfile",
    "dockerfile_inline",
    "entitlements",
    "extra_hosts",
    "isolation",
    "labels",
    "network",
    "no_cache",
    "platforms",
    "privileged",
    "pull",
    "secrets",
    "shm_size",
    "ssh",
    "tags",
    "target",
    "ulimits",
];

pub(super) fn read(scope: &Scope<'_>, at: &Cursor<'_>, report: &mut Report) -> Option<String> {
    let mut build = if at.is_scalar() {
        Map::from_iter([("context".to_owned(), Json::String(at.string(report)?))])
    } else {
        at.only(report, &KNOWN, &[]);
        match json(at.node) {
            Json::Object(map) => map,
            _ => {
                at.refuse(report, format!("expected a directory or a map, found {}", at.node.kind()));
                return None;
            }
        }
    };
    let context = build.entry("context").or_insert_with(|| Json::String(".".to_owned()));
    if let Json::String(path) = context {
        *path = from_home(scope.vars, path);
    }
    if let Some(args) = at.get("args") {
        // An argument alone passes on the submitter's own variable, and nothing when it has none.
        let args = args.pairs(report).into_iter();
        let args = args.filter_map(|(key, value, _)| {
            let value = value.or_else(|| scope.vars.get(&key).cloned())?;
            Some((key, Json::String(value)))
        });
        build.insert("args".to_owned(), args.collect());
    }
    if let Some(labels) = at.get("labels") {
        let labels = labels.pairs(report).into_iter();
        let labels = labels.map(|(key, value, _)| (key, Json::String(value.unwrap_or_default())));
        build.insert("labels".to_owned(), labels.collect());
    }
    Some(Json::Object(build).to_string())
}

/// Scalars stay the strings they were written as; Compose takes those everywhere below `build`.
fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Scalar(text) => Json::String(text.clone()),
        Value::List(items) => Json::Array(items.iter().map(json).collect()),
        Value::Map(entries) => entries.iter().map(|e| (e.key.clone(), json(&e.node))).collect(),
    }
}

//! Several files into one, by Compose's rules: maps merge key by key, single values replace, lists
//! grow, `command` and the like replace, what is a list or a map merges as a map, and what has an
//! identity (a mount's target, a port) replaces its namesake. `extends` merges by the same rules.

use crate::tree::{Entry, MergeTag, Node, Value};

/// What makes two list items the same.
type Identity = fn(&Node) -> Option<String>;

enum Rule {
    /// Maps merge, lists append what is new, single values replace.
    Deep,
    Replace,
    /// `KEY=value` lists and maps alike.
    Pairs,
    /// `HOST:ADDRESS` lists and maps alike.
    Hosts,
    /// A list of names, or a map by name.
    Names,
    /// A single value stands for a map with this key.
    Short(&'static str),
    /// A single value stands for a list of one.
    Many,
    /// List items of the same identity replace each other.
    Unique(Identity),
}

/// The rule for a key, by its path from the root of a file.
fn rule(path: &[String]) -> Rule {
    let keys: Vec<&str> = path.iter().map(String::as_str).collect();
    let ["services", _, keys @ ..] = keys.as_slice() else { return Rule::Deep };
    match keys {
        // A job takes one device request, so a second file replaces the first one's.
        ["command" | "entrypoint" | "gpus"]
        | ["healthcheck", "test"]
        | ["deploy", "resources", "reservations", "devices"] => Rule::Replace,
        ["environment" | "labels" | "sysctls"] | ["build", "args" | "labels"] | ["deploy", "labels"] => {
            Rule::Pairs
        }
        ["extra_hosts"] => Rule::Hosts,
        ["depends_on" | "networks"] => Rule::Names,
        ["build"] => Rule::Short("context"),
        ["extends"] => Rule::Short("service"),
        ["env_file" | "tmpfs" | "dns"] => Rule::Many,
        ["volumes"] => Rule::Unique(volume),
        ["ports"] => Rule::Unique(port),
        ["secrets" | "configs"] => Rule::Unique(grant),
        ["devices"] => Rule::Unique(device),
        _ => Rule::Deep,
    }
}

/// `over` merged onto `base`; `path` leads to both from the root of a file.
pub(crate) fn merge(base: Node, over: Node, path: &mut Vec<String>) -> Node {
    if over.merge != MergeTag::None {
        return over;
    }
    if over.value == Value::Null {
        return base;
    }
    let mut identity: Identity = text;
    let (base, over) = match rule(path) {
        Rule::Deep => (base, over),
        Rule::Replace => return over,
        Rule::Pairs => (as_pairs(base), as_pairs(over)),
        Rule::Hosts => (as_hosts(base), as_hosts(over)),
        Rule::Names => (as_names(base), as_names(over)),
        Rule::Short(key) => (as_map(base, key), as_map(over, key)),
        Rule::Many => (as_list(base), as_list(over)),
        Rule::Unique(of) => {
            identity = of;
            (base, over)
        }
    };
    let value = match (base.value, over.value) {
        (Value::Map(base), Value::Map(over)) => Value::Map(merge_maps(base, over, path)),
        (Value::List(base), Value::List(over)) => Value::List(merge_lists(base, over, identity)),
        (_, value) => value,
    };
    Node { place: over.place, value, merge: MergeTag::None }
}

fn merge_maps(mut base: Vec<Entry>, over: Vec<Entry>, path: &mut Vec<String>) -> Vec<Entry> {
    for entry in over {
        let Some(found) = base.iter_mut().find(|e| e.key == entry.key) else {
            base.push(entry);
            continue;
        };
        path.push(entry.key);
        let old = std::mem::replace(&mut found.node, Node::map(entry.place.clone()));
        found.node = merge(old, entry.node, path);
        found.place = entry.place;
        path.pop();
    }
    base
}

fn merge_lists(mut base: Vec<Node>, over: Vec<Node>, identity: Identity) -> Vec<Node> {
    for node in over {
        let id = identity(&node);
        match base.iter_mut().find(|n| id.is_some() && identity(n) == id) {
            Some(found) => *found = node,
            None => base.push(node),
        }
    }
    base
}

/// Removes what `!reset` marks, and the marks of `!override`, once everything is merged.
pub(crate) fn settle(node: &mut Node) {
    node.merge = MergeTag::None;
    match &mut node.value {
        Value::Map(entries) => {
            entries.retain(|e| e.node.merge != MergeTag::Reset);
            entries.iter_mut().for_each(|e| settle(&mut e.node));
        }
        Value::List(items) => {
            items.retain(|n| n.merge != MergeTag::Reset);
            items.iter_mut().for_each(settle);
        }
        Value::Null | Value::Scalar(_) => {}
    }
}

fn entry(key: &str, value: Value, of: &Node) -> Entry {
    let node = Node { place: of.place.clone(), value, merge: MergeTag::None };
    Entry { key: key.to_owned(), place: of.place.clone(), node }
}

/// A list of strings as a map; a list that holds anything else stays, to be refused by its reader.
fn as_entries(node: Node, make: fn(&str, &Node) -> Entry) -> Node {
    let Value::List(items) = &node.value else { return node };
    let mut entries: Vec<Entry> = Vec::new();
    for item in items {
        let Some(text) = item.as_str() else { return node };
        let new = make(text, item);
        entries.retain(|e| e.key != new.key);
        entries.push(new);
    }
    Node { value: Value::Map(entries), ..node }
}

fn as_pairs(node: Node) -> Node {
    as_entries(node, |text, item| match text.split_once('=') {
        Some((key, value)) => entry(key, Value::Scalar(value.to_owned()), item),
        None => entry(text, Value::Null, item),
    })
}

fn as_hosts(node: Node) -> Node {
    as_entries(node, |text, item| {
        let (host, address) = text.split_once('=').or_else(|| text.split_once(':')).unwrap_or((text, ""));
        entry(host, Value::Scalar(address.to_owned()), item)
    })
}

fn as_names(node: Node) -> Node {
    as_entries(node, |text, item| entry(text, Value::Map(Vec::new()), item))
}

fn as_map(node: Node, key: &str) -> Node {
    let Value::Scalar(_) = &node.value else { return node };
    let place = node.place.clone();
    let only = Entry { key: key.to_owned(), place: place.clone(), node };
    Node { value: Value::Map(vec![only]), ..Node::map(place) }
}

fn as_list(node: Node) -> Node {
    let Value::Scalar(_) = &node.value else { return node };
    Node { value: Value::List(vec![node.clone()]), ..node }
}

fn text(node: &Node) -> Option<String> {
    node.as_str().map(ToOwned::to_owned)
}

fn field(node: &Node, key: &str) -> Option<String> {
    node.get(key).and_then(text)
}

fn volume(node: &Node) -> Option<String> {
    match node.as_str() {
        Some(short) => short.split(':').nth(usize::from(short.contains(':'))).map(ToOwned::to_owned),
        None => field(node, "target"),
    }
}

fn port(node: &Node) -> Option<String> {
    let long = || {
        let target = field(node, "target")?;
        let part = |key| field(node, key).unwrap_or_default();
        Some(format!("{}:{}:{target}/{}", part("host_ip"), part("published"), part("protocol")))
    };
    text(node).or_else(long)
}

fn grant(node: &Node) -> Option<String> {
    text(node).or_else(|| field(node, "target")).or_else(|| field(node, "source"))
}

fn device(node: &Node) -> Option<String> {
    match node.as_str() {
        Some(short) => short.split(':').nth(usize::from(short.contains(':'))).map(ToOwned::to_owned),
        None => field(node, "target").or_else(|| field(node, "source")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::yaml::parse;

    fn merged(base: &str, over: &str) -> Node {
        let service = |text: &str| {
            let indented: String = text.lines().map(|l| format!("    {l}\n")).collect();
            parse(&Arc::from("f"), format!("services:\n  s:\n{indented}").as_bytes()).unwrap()
        };
        let mut node = merge(service(base), service(over), &mut Vec::new());
        settle(&mut node);
        node.get("services").unwrap().get("s").unwrap().clone()
    }

    fn list(node: &Node, key: &str) -> Vec<String> {
        let Value::List(items) = &node.get(key).unwrap().value else { panic!("{key} is no list") };
        items.iter().map(|i| i.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn single_values_and_commands_replace_and_lists_grow() {
        let node = merged(
            "image: a\ncommand: [x, y]\ncap_add: [A]\nenv_file: one",
            "image: b\ncommand: [z]\ncap_add: [A, B]\nenv_file: [two]",
        );
        assert_eq!(node.get("image").unwrap().as_str(), Some("b"));
        assert_eq!(list(&node, "command"), ["z"]);
        assert_eq!(list(&node, "cap_add"), ["A", "B"]);
        assert_eq!(list(&node, "env_file"), ["one", "two"]);
    }

    #[test]
    fn an_environment_merges_by_variable_whatever_its_form() {
        let node = merged("environment: [A=1, B=2]", "environment: {B: 3, C: 4}");
        let value = |k| node.get("environment").unwrap().get(k).unwrap().as_str().unwrap().to_owned();
        assert_eq!((value("A"), value("B"), value("C")), ("1".into(), "3".into(), "4".into()));
    }

    #[test]
    fn a_mount_replaces_the_one_at_the_same_target() {
        let node = merged("volumes: ['./a:/data', './b:/out']", "volumes: ['./c:/data:ro', /tmp]");
        assert_eq!(list(&node, "volumes"), ["./c:/data:ro", "./b:/out", "/tmp"]);
    }

    #[test]
    fn reset_removes_and_override_replaces() {
        let node = merged("ports: [80]\nexpose: [1]\nimage: a", "ports: !override [90]\nexpose: !reset []");
        assert_eq!(list(&node, "ports"), ["90"]);
        assert!(node.get("expose").is_none());
        assert!(node.get("image").is_some());
    }

    #[test]
    fn a_null_leaves_what_was_there() {
        let node = merged("image: a", "image:");
        assert_eq!(node.get("image").unwrap().as_str(), Some("a"));
    }
}

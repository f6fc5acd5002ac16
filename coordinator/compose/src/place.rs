//! Where a key of a service stands in the user's files.

use crate::project::Project;
use crate::report::Place;
use crate::tree::{Entry, Node, Value};

/// Where to change something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPlace {
    pub place: Place,
    /// The key is there; else this is its service, which lacks it.
    pub found: bool,
}

impl Project {
    /// Where `key` (as `deploy.resources.limits.memory`) of a service stands, or the service, where it lacks the key.
    /// `None` if there is no such service.
    pub fn place_of(&self, service: &str, key: &str) -> Option<KeyPlace> {
        let service = entry(self.tree.get("services")?, service)?;
        let find = |key: &str| key.split('.').try_fold(service, |at, name| entry(&at.node, name));
        let last = find(key).or_else(|| find(older(key)?));
        let of_service = || KeyPlace { place: service.place.clone(), found: false };
        Some(last.map_or_else(of_service, |at| KeyPlace { place: at.place.clone(), found: true }))
    }
}

/// What says the same as a key of `deploy`, from before there was one.
fn older(key: &str) -> Option<&'static str> {
    match key {
        "deploy.resources.limits.memory" => Some("mem_limit"),
        "deploy.resources.limits.cpus" => Some("cpus"),
        "deploy.resources.limits.pids" => Some("pids_limit"),
        _ => None,
    }
}

fn entry<'a>(node: &'a Node, key: &str) -> Option<&'a Entry> {
    match &node.value {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
        Value::Null | Value::Scalar(_) | Value::List(_) => None,
    }
}

//! Where a tree's bytes are, for people who wonder what is so large.

use std::collections::BTreeMap;

use super::walk::Found;

/// Parts named.
const NAMED: usize = 5;

/// A file or directory and the bytes below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Relative to the root.
    pub path: String,
    pub bytes: u64,
}

/// The largest parts, one level deep; a directory that holds nearly everything is opened.
pub(super) fn largest(found: &[Found]) -> Vec<Part> {
    let mut inside = String::new();
    loop {
        let parts = parts(found, &inside);
        let total: u64 = parts.iter().map(|part| part.bytes).sum();
        match parts.first() {
            Some(first) if first.bytes > total / 10 * 9 && has_entries(found, &first.path) => {
                inside = format!("{}/", first.path);
            }
            _ => return parts.into_iter().take(NAMED).collect(),
        }
    }
}

fn parts(found: &[Found], inside: &str) -> Vec<Part> {
    let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
    for entry in found {
        let Some(rest) = entry.path.strip_prefix(inside) else { continue };
        let name = rest.split('/').next().unwrap_or_default();
        *sizes.entry(name).or_default() += entry.size();
    }
    let mut parts: Vec<_> = sizes
        .into_iter()
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(name, bytes)| Part { path: format!("{inside}{name}"), bytes })
        .collect();
    parts.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.path.cmp(&b.path)));
    parts
}

fn has_entries(found: &[Found], dir: &str) -> bool {
    !dir.is_empty()
        && found.iter().any(|f| f.path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/')))
}

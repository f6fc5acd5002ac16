//! How much was shipped, and how much was there already.

use std::collections::BTreeSet;

use convoke_model::Digest;
use serde_json::{Value, json as object};

use super::blob::Tree;
use crate::cli::text;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Files whose content was lacking, and their bytes, equal contents once.
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) of_files: u64,
    pub(super) unchanged_bytes: u64,
}

impl Tally {
    pub(super) fn of<'t>(trees: impl Iterator<Item = &'t Tree>, lacking: &BTreeSet<Digest>) -> Self {
        let mut tally = Self::default();
        let mut counted = BTreeSet::new();
        for (digest, size) in trees.flat_map(|tree| tree.manifest.blobs()) {
            tally.of_files += 1;
            if !lacking.contains(&digest) {
                tally.unchanged_bytes += size;
                continue;
            }
            tally.files += 1;
            if counted.insert(digest) {
                tally.bytes += size;
            }
        }
        tally
    }

    /// `shipped 3 of 2,001 files, 1.2 MiB (1.0 GiB unchanged)`.
    pub(crate) fn sentence(&self, verb: &str) -> String {
        let of = text::files(self.of_files);
        let files = match self.files {
            0 => format!("nothing of {of}"),
            n => format!("{} of {of}, {}", text::grouped(n), text::size(self.bytes)),
        };
        match self.unchanged_bytes {
            0 => format!("{verb} {files}"),
            n => format!("{verb} {files} ({} unchanged)", text::size(n)),
        }
    }

    pub(crate) fn json(&self) -> Value {
        object!({
            "files": self.files, "bytes": self.bytes,
            "of_files": self.of_files, "unchanged_bytes": self.unchanged_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use convoke_tree::{Entry, Kind, Manifest};

    use super::*;

    fn tree(contents: &[u8]) -> Tree {
        let file = |(n, content): (usize, &u8)| Entry {
            path: n.to_string(),
            mode: 0o644,
            kind: Kind::File { size: 10, digest: Digest([*content; 32]) },
        };
        Tree::new(Manifest { entries: contents.iter().enumerate().map(file).collect() }, BTreeMap::new())
    }

    #[test]
    fn equal_contents_are_files_of_their_own_but_bytes_once() {
        let lacking = BTreeSet::from([Digest([1; 32])]);
        let tally = Tally::of([tree(&[1, 1, 2]), tree(&[1, 3])].iter(), &lacking);
        assert_eq!(tally, Tally { files: 3, bytes: 10, of_files: 5, unchanged_bytes: 20 });
    }

    #[test]
    fn the_summary_is_one_sentence() {
        let tally = Tally { files: 3, bytes: 1_258_291, of_files: 2_001, unchanged_bytes: 1 << 30 };
        assert_eq!(tally.sentence("shipped"), "shipped 3 of 2,001 files, 1.2 MiB (1.0 GiB unchanged)");
        let none = Tally { of_files: 1, ..Tally::default() };
        assert_eq!(none.sentence("shipped"), "shipped nothing of 1 file");
    }
}

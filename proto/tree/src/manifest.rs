//! The list of a tree's entries, and its one encoding.

use std::path::{Component, Path};

use convoke_model::{Digest, TreeRef};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Entries of one tree: a million files are about 150 MB of manifest, beyond which a shared file
/// system or an archive serves better.
pub const MAX_ENTRIES: usize = 1_000_000;

/// A directory's entries below its root, in the order of their paths. Parents come before what is in
/// them. A tree that is a single file has one entry with an empty path.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Manifest {
    pub entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative, `/`-separated, without `.` and `..`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    #[serde(flatten)]
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Kind {
    File {
        size: u64,
        #[serde(rename = "sha256")]
        digest: Digest,
    },
    Dir,
    /// Its target stays within the tree.
    Symlink {
        target: String,
    },
}

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is not JSON of the expected form: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the manifest has {0} entries, more than {MAX_ENTRIES}")]
    TooMany(usize),
    #[error("entry {0:?} of the manifest is not a plain relative path")]
    BadPath(String),
    #[error("entry {0:?} of the manifest is not in order, there twice, or not below a directory")]
    BadOrder(String),
    #[error("link {path:?} of the manifest leads out of the tree, to {target:?}")]
    LinkOut { path: String, target: String },
}

impl Manifest {
    /// The bytes whose digest names the tree.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always encode")
    }

    /// Checks what came from outside: nothing in a manifest that this accepts leads out of the tree.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The tree's name and size.
    pub fn reference(&self) -> TreeRef {
        let digest = Digest(Sha256::digest(self.encode()).into());
        let (mut files, mut bytes) = (0, 0);
        for (_, size) in self.blobs() {
            files += 1;
            bytes += size;
        }
        TreeRef { digest, files, bytes }
    }

    /// Every regular file's content, once for each file, with its size.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.entries.iter().filter_map(|entry| match entry.kind {
            Kind::File { size, digest } => Some((digest, size)),
            Kind::Dir | Kind::Symlink { .. } => None,
        })
    }

    /// True if the tree is one file and no directory.
    pub fn is_single_file(&self) -> bool {
        matches!(self.entries.as_slice(), [Entry { path, kind: Kind::File { .. }, .. }] if path.is_empty())
    }

    fn check(&self) -> Result<(), ManifestError> {
        if self.entries.len() > MAX_ENTRIES {
            return Err(ManifestError::TooMany(self.entries.len()));
        }
        if self.is_single_file() {
            return Ok(());
        }
        // The directories that the current entry is in, outermost first.
        let mut open: Vec<&str> = Vec::new();
        let mut last = "";
        for Entry { path, kind, .. } in &self.entries {
            if !is_plain(path) {
                return Err(ManifestError::BadPath(path.clone()));
            }
            while open.last().is_some_and(|dir| !is_below(path, dir)) {
                open.pop();
            }
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            if !follows(last, path) || open.last().copied().unwrap_or_default() != parent {
                return Err(ManifestError::BadOrder(path.clone()));
            }
            match kind {
                Kind::Dir => open.push(path),
                Kind::Symlink { target } if !stays(parent, target) => {
                    return Err(ManifestError::LinkOut { path: path.clone(), target: target.clone() });
                }
                Kind::Symlink { .. } | Kind::File { .. } => {}
            }
            last = path;
        }
        Ok(())
    }
}

fn is_plain(path: &str) -> bool {
    !path.contains('\0')
        && path.split('/').all(|part| !part.is_empty() && part != ".")
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// The order of manifests: part by part, so that a directory is followed by what is in it.
fn follows(last: &str, path: &str) -> bool {
    last.is_empty() || last.split('/').lt(path.split('/'))
}

/// Whether a link in `parent` to `target` leads to a place within the tree.
pub(crate) fn stays(parent: &str, target: &str) -> bool {
    if target.is_empty() || target.contains('\0') {
        return false;
    }
    let mut depth = if parent.is_empty() { 0 } else { parent.split('/').count() };
    for component in Path::new(target).components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry { path: path.to_owned(), mode: 0o644, kind }
    }

    fn file(path: &str) -> Entry {
        entry(path, Kind::File { size: 1, digest: Digest([7; 32]) })
    }

    fn link(path: &str, target: &str) -> Entry {
        entry(path, Kind::Symlink { target: target.to_owned() })
    }

    fn decoded(entries: Vec<Entry>) -> Result<Manifest, ManifestError> {
        Manifest::decode(&Manifest { entries }.encode())
    }

    #[test]
    fn a_tree_survives_its_encoding_and_names_its_size() {
        let entries = vec![
            entry("a", Kind::Dir),
            file("a/x"),
            file("a.txt"),
            link("a.txt2", "a/../a.txt"),
            entry("b", Kind::Dir),
        ];
        let manifest = decoded(entries.clone()).unwrap();
        assert_eq!(manifest.entries, entries);
        let reference = manifest.reference();
        assert_eq!((reference.files, reference.bytes), (2, 2));
    }

    #[test]
    fn a_single_file_is_a_tree_with_one_nameless_entry() {
        assert!(decoded(vec![file("")]).unwrap().is_single_file());
        assert!(decoded(vec![file(""), file("a")]).is_err());
    }

    #[test]
    fn what_leads_out_of_the_tree_is_refused() {
        for path in ["../x", "/etc/passwd", "a/../b", "./a", "a//b", "a/", "a\0b"] {
            assert!(matches!(decoded(vec![file(path)]), Err(ManifestError::BadPath(_))), "{path:?}");
        }
        for target in ["..", "/etc", "a/../../x", ""] {
            assert!(
                matches!(decoded(vec![link("l", target)]), Err(ManifestError::LinkOut { .. })),
                "{target:?}"
            );
        }
    }

    #[test]
    fn a_file_below_a_link_or_out_of_order_or_twice_is_refused() {
        let dir = || entry("d", Kind::Dir);
        for entries in [
            vec![link("l", "d"), file("l/x")],
            vec![file("d/x")],
            vec![file("b"), file("a")],
            vec![file("a"), file("a")],
            vec![dir(), file("e"), file("d/x")],
        ] {
            assert!(matches!(decoded(entries), Err(ManifestError::BadOrder(_))));
        }
    }
}

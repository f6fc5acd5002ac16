//! Directories as content: what a submit ships to the nodes, and what comes back.
//!
//! A tree is named by the SHA-256 of its [`Manifest`], a JSON document that lists every entry in the
//! order of paths; regular files are blobs named by the SHA-256 of their bytes. So equal directories
//! have equal names, and what did not change is never sent again.

mod manifest;
pub mod scan;

pub use manifest::{Entry, Kind, MAX_ENTRIES, Manifest, ManifestError};

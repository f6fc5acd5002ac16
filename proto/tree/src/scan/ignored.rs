//! Which entries the ignore files leave out: the deepest file that has an opinion decides.

use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::{IGNORE_FILE, ScanError};

/// The ignore files of a directory and of those above it.
pub(super) struct Ignored(Vec<Gitignore>);

impl Ignored {
    /// Those above `root`, from `project` down, where the one lies in the other.
    pub(super) fn above(root: &Path, project: &Path) -> Result<Self, ScanError> {
        let mut ignored = Self(Vec::new());
        let Ok(project) = project.canonicalize() else { return Ok(ignored) };
        let parents = root.ancestors().skip(1).take_while(|dir| dir.starts_with(&project));
        let parents: Vec<_> = parents.collect();
        for dir in parents.into_iter().rev() {
            ignored.enter(dir)?;
        }
        Ok(ignored)
    }

    /// Takes up the ignore file of `dir`; true if it has one.
    pub(super) fn enter(&mut self, dir: &Path) -> Result<bool, ScanError> {
        let path = dir.join(IGNORE_FILE);
        if !path.is_file() {
            return Ok(false);
        }
        let mut builder = GitignoreBuilder::new(dir);
        if let Some(error) = builder.add(&path) {
            return Err(bad(path, &error));
        }
        self.0.push(builder.build().map_err(|error| bad(path, &error))?);
        Ok(true)
    }

    /// Forgets the ignore file taken up last.
    pub(super) fn leave(&mut self) {
        self.0.pop();
    }

    pub(super) fn matches(&self, path: &Path, is_dir: bool) -> bool {
        for file in self.0.iter().rev() {
            match file.matched(path, is_dir) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => {}
            }
        }
        false
    }
}

fn bad(path: PathBuf, error: &ignore::Error) -> ScanError {
    ScanError::BadIgnore { path, problem: error.to_string() }
}

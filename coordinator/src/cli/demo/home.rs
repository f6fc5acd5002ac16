//! The demo's directory: data of the coordinator and the agents, logs, the example, the lifeline.

use std::fs::File;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::cli::failure::{Failure, exit};

pub(super) struct Home {
    path: PathBuf,
    /// Removes the directory when dropped; `None` when it stays.
    temporary: Option<TempDir>,
    /// Locked exclusively for as long as this process lives; every process of the demo ends when
    /// it gets a shared lock. The kernel releases it however we die.
    lifeline: Option<File>,
}

impl Home {
    /// A temporary directory, or `keep`, which must be empty or not there.
    pub(super) fn make(keep: Option<&Path>) -> Result<Self, Failure> {
        let (path, temporary) = match keep {
            Some(dir) => (kept(dir)?, None),
            None => {
                let dir = tempfile::Builder::new().prefix("convoke-demo-").tempdir();
                let dir = dir.map_err(|e| Failure::file("make a directory in", &std::env::temp_dir(), &e))?;
                (dir.path().to_owned(), Some(dir))
            }
        };
        let mut home = Self { path, temporary, lifeline: None };
        let lifeline = home.lifeline();
        let file = File::create(&lifeline).map_err(|e| Failure::file("write", &lifeline, &e))?;
        file.lock().map_err(|e| Failure::file("lock", &lifeline, &e))?;
        home.lifeline = Some(file);
        std::fs::create_dir(home.logs()).map_err(|e| Failure::file("make", &home.logs(), &e))?;
        Ok(home)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn lifeline(&self) -> PathBuf {
        self.path.join("lifeline")
    }

    pub(super) fn address_file(&self) -> PathBuf {
        self.path.join("coordinator.address")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Lets go of the lifeline: what still runs ends now.
    pub(super) fn release(&mut self) {
        self.lifeline = None;
    }

    /// Leaves the directory where it is.
    pub(super) fn keep(&mut self) {
        if let Some(dir) = self.temporary.take() {
            let _ = dir.keep();
        }
    }

    pub(super) fn is_kept(&self) -> bool {
        self.temporary.is_none()
    }
}

fn kept(dir: &Path) -> Result<PathBuf, Failure> {
    std::fs::create_dir_all(dir).map_err(|e| Failure::file("make", dir, &e))?;
    let mut entries = std::fs::read_dir(dir).map_err(|e| Failure::file("read", dir, &e))?;
    if entries.next().is_some() {
        let message = format!("{} is not empty", dir.display());
        return Err(Failure::new(exit::USAGE, "USAGE", message).hint("--keep takes a new directory"));
    }
    dir.canonicalize().map_err(|e| Failure::file("find", dir, &e))
}

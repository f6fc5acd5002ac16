//! What `convoke` keeps on this machine between runs to do less work: all of it may be deleted.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What was not touched for so long is removed.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// What a directory below the cache's is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shelf {
    /// Digests of the submitter's files.
    Digests,
    /// What images that no registry has consist of.
    Images,
    /// Which files came back from which job.
    Received,
}

impl Shelf {
    /// Its directory, below `$XDG_CACHE_HOME` or `~/.cache`; `None` where neither is known.
    pub(crate) fn dir(self) -> Option<PathBuf> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))?;
        let name = match self {
            Self::Digests => "digests",
            Self::Images => "images",
            Self::Received => "received",
        };
        Some(home.join("convoke").join(name))
    }

    /// The same, there to be written to.
    pub(crate) fn make(self) -> Option<PathBuf> {
        let dir = self.dir()?;
        fs::create_dir_all(&dir).ok().map(|()| dir)
    }
}

/// Removes what nobody has used for long. What cannot be removed stays.
pub(crate) fn sweep() {
    for shelf in [Shelf::Digests, Shelf::Images, Shelf::Received] {
        if let Some(dir) = shelf.dir() {
            let _ = sweep_dir(&dir);
        }
    }
}

fn sweep_dir(dir: &std::path::Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.modified()?.elapsed().unwrap_or_default() <= KEPT {
            continue;
        }
        if metadata.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn only_what_was_not_used_for_long_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        for (name, days) in [("old", 100), ("new", 10)] {
            let file = fs::File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(days * 24 * 3600)).unwrap();
        }
        sweep_dir(dir.path()).unwrap();
        assert!(!dir.path().join("old").exists() && dir.path().join("new").exists());
    }
}

//! Digests of files that have not changed since they were last hashed, so that a second look at ten
//! gigabytes does not read them.
//!
//! A file of JSON for each project, replaced whole. It is a cache: damaged or lost, it is empty.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use convoke_model::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::stamp::Stamp;

/// A file touched less than this before it is hashed may be written again without looking different
/// (file systems count time in steps of up to two seconds), so it is hashed anew next time.
const SETTLED: Duration = Duration::from_secs(2);

/// Caches of projects not scanned for so long are removed.
const KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

#[derive(Debug, Default)]
pub struct DigestCache {
    /// `None`: kept for this run only.
    file: Option<PathBuf>,
    known: HashMap<PathBuf, Known>,
    fresh: HashMap<PathBuf, Known>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Known {
    #[serde(flatten)]
    stamp: Stamp,
    #[serde(rename = "h")]
    digest: Digest,
}

impl DigestCache {
    /// The cache of the project at `project`, in a directory of caches.
    pub fn open(dir: &Path, project: &Path) -> Self {
        let name = Digest(Sha256::digest(project.as_os_str().as_encoded_bytes()).into());
        let file = dir.join(format!("{name}.json"));
        let read = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { file: Some(file), known: read.unwrap_or_default(), fresh: HashMap::new() }
    }

    /// The digest of a file that still looks so.
    pub(super) fn get(&self, path: &Path, stamp: &Stamp) -> Option<Digest> {
        let known = self.fresh.get(path).or_else(|| self.known.get(path))?;
        (known.stamp == *stamp).then_some(known.digest)
    }

    pub(super) fn put(&mut self, path: &Path, stamp: Stamp, digest: Digest) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let settled = i64::try_from(now.saturating_sub(SETTLED).as_nanos()).unwrap_or(i64::MAX);
        // JSON has no place for a path that is not UTF-8.
        if stamp.touched() <= settled && path.to_str().is_some() {
            self.fresh.insert(path.to_owned(), Known { stamp, digest });
        }
    }

    /// What was known below `root` and was not seen again has gone.
    pub(super) fn scanned(&mut self, root: &Path) {
        self.known.retain(|path, _| !path.starts_with(root));
    }

    /// The next scan reads this file again, whatever it looks like.
    pub fn forget(&mut self, path: &Path) {
        self.known.remove(path);
        self.fresh.remove(path);
    }

    /// Writes it down for the next run.
    pub fn save(&mut self) -> io::Result<()> {
        self.known.extend(self.fresh.drain());
        let Some(file) = &self.file else { return Ok(()) };
        let dir = file.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)?;
        let mut temporary = tempfile::NamedTempFile::new_in(dir)?;
        serde_json::to_writer(io::BufWriter::new(&mut temporary), &self.known)?;
        temporary.flush()?;
        temporary.persist(file)?;
        remove_old(dir)
    }
}

fn remove_old(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age > KEPT {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

//! What was judged of each file, on disk: so that the next agent repeats little. A line a file, the last
//! one of a file counts; what cannot be read (the end of a write that was interrupted) is not there. Nothing
//! depends on it but time: a file without a line is judged again, and sending it again changes nothing. What stays on
//! the node has none.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use convoke_model::Digest;
use serde::{Deserialize, Serialize};

use super::looks::{FileId, Settled};
use super::scan::Stamp;

/// Lines of files that were judged again, before the file is written anew.
const STALE_LINES: usize = 10_000;

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    copy: usize,
    path: String,
    stamp: Stamp,
    #[serde(default)]
    sha256: Option<Digest>,
    mode: u32,
    returned: bool,
}

#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
}

impl Journal {
    pub(crate) fn file(replica: &Path) -> PathBuf {
        replica.join("collected.jsonl")
    }

    /// Opens the journal, making it where needed; with what is in it.
    pub(super) fn open(replica: &Path) -> io::Result<(Self, HashMap<FileId, Settled>)> {
        let path = Self::file(replica);
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let content = fs::read(&path)?;
        let (mut settled, mut lines) = (HashMap::new(), 0);
        for line in content.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()) {
            let Line { copy, path, stamp, sha256, mode, returned } = line;
            let known = Settled { stamp, digest: sha256, mode, returned, stays: false };
            settled.insert((copy, path), known);
            lines += 1;
        }
        let mut journal = Self { path, file, lines };
        if content.last().is_some_and(|last| *last != b'\n') {
            journal.file.write_all(b"\n")?;
        }
        Ok((journal, settled))
    }

    /// Adds what was judged; `all` is everything that is settled.
    pub(super) fn add<'a>(
        &mut self,
        judged: impl Iterator<Item = (&'a FileId, &'a Settled)>,
        all: impl ExactSizeIterator<Item = (&'a FileId, &'a Settled)>,
    ) -> io::Result<()> {
        self.lines += write(&self.file, judged)?;
        if self.lines > 2 * all.len() + STALE_LINES {
            let fresh = self.path.with_extension("new");
            let file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&fresh)?;
            self.lines = write(&file, all)?;
            fs::rename(&fresh, &self.path)?;
            self.file = OpenOptions::new().append(true).open(&self.path)?;
        }
        Ok(())
    }
}

fn write<'a>(file: &File, settled: impl Iterator<Item = (&'a FileId, &'a Settled)>) -> io::Result<usize> {
    let (mut out, mut lines) = (BufWriter::new(file), 0);
    for ((copy, path), Settled { stamp, digest, mode, returned, .. }) in
        settled.filter(|(_, known)| !known.stays)
    {
        let (copy, path) = (*copy, path.clone());
        let line = Line { copy, path, stamp: *stamp, sha256: *digest, mode: *mode, returned: *returned };
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")?;
        lines += 1;
    }
    out.flush()?;
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(size: u64) -> Settled {
        let stamp = serde_json::json!({"size": size, "inode": 1, "modified": 2, "changed": 3});
        let stamp = serde_json::from_value(stamp).unwrap();
        Settled { stamp, digest: Some(Digest([1; 32])), mode: 0o644, returned: true, stays: false }
    }

    #[test]
    fn the_last_line_of_a_file_counts_and_a_torn_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, none) = Journal::open(directory.path()).unwrap();
        assert!(none.is_empty());
        let id = (0, "a".to_owned());
        for size in [1, 2] {
            let all = HashMap::from([(id.clone(), settled(size))]);
            journal.add(all.iter(), all.iter()).unwrap();
        }
        journal.file.write_all(b"{\"copy\": 0, \"pa").unwrap();
        let (mut journal, read) = Journal::open(directory.path()).unwrap();
        assert_eq!(read, HashMap::from([(id.clone(), settled(2))]));
        let all = HashMap::from([(id.clone(), settled(3))]);
        journal.add(all.iter(), all.iter()).unwrap();
        let (_, read) = Journal::open(directory.path()).unwrap();
        assert_eq!(read[&id], settled(3), "what follows a torn line is read");
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(directory.path()).unwrap();
        let id = (0, "log".to_owned());
        for size in 0..=u64::try_from(STALE_LINES).unwrap() + 10 {
            let all = HashMap::from([(id.clone(), settled(size))]);
            journal.add(all.iter(), all.iter()).unwrap();
        }
        let (journal, read) = Journal::open(directory.path()).unwrap();
        assert!(journal.lines < 20, "{}", journal.lines);
        assert_eq!(read.len(), 1);
    }
}

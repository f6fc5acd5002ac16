//! Reading a series back after a start: which segments there are, and how far each stream is.

use std::io;
use std::path::{Path, PathBuf};

use super::record::{Header, Record};
use super::series::{Published, Segment};

/// Rebuilds a series from its files. A tail that was being written when the coordinator died is cut
/// off: it was never acknowledged.
pub(super) fn recover(dir: &Path, prefix: &str, path_of: impl Fn(u64) -> PathBuf) -> io::Result<Published> {
    let mut indices = indices(dir, prefix)?;
    let mut published = Published::default();
    while let Some(newest) = indices.pop() {
        let path = path_of(newest);
        let bytes = std::fs::read(&path)?;
        let Some(valid) = replay(&bytes, &mut published, &path) else {
            // Header and first lines are one write, so nothing in it was acknowledged.
            tracing::warn!("{} has no header: removed", path.display());
            std::fs::remove_file(&path)?;
            continue;
        };
        if valid < bytes.len() {
            tracing::warn!("{}: cut off {} bytes of a torn tail", path.display(), bytes.len() - valid);
            let file = std::fs::File::options().write(true).open(&path)?;
            file.set_len(valid as u64)?;
            file.sync_all()?;
        }
        for index in indices {
            let len = std::fs::metadata(path_of(index))?.len();
            published.segments.push_back(Segment { index, len });
        }
        published.segments.push_back(Segment { index: newest, len: valid as u64 });
        break;
    }
    Ok(published)
}

/// Segment numbers, oldest first.
fn indices(dir: &Path, prefix: &str) -> io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut indices = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let index = name.to_str().and_then(|n| n.strip_prefix(prefix)?.strip_prefix('-'));
        indices.extend(index.and_then(|n| n.strip_suffix(".jsonl")?.parse::<u64>().ok()));
    }
    indices.sort_unstable();
    Ok(indices)
}

/// Moves the cursors over a segment; returns the length up to its last whole record, or `None` if it
/// has no header.
fn replay(bytes: &[u8], published: &mut Published, path: &Path) -> Option<usize> {
    let mut lines = bytes.split_inclusive(|b| *b == b'\n');
    let first = lines.next().filter(|line| line.ends_with(b"\n"))?;
    let header: Header = serde_json::from_slice(first).ok()?;
    published.cursors = header.streams.into_iter().collect();
    let mut end = first.len();
    let mut valid = end;
    let mut damaged = 0;
    for line in lines {
        end += line.len();
        let record = line.ends_with(b"\n").then(|| serde_json::from_slice::<Record>(line).ok()).flatten();
        let Some(record) = record else {
            damaged += 1;
            continue;
        };
        let cursor = published.cursors.entry(record.stream).or_default();
        *cursor = cursor.after(&record);
        // What is unreadable before a readable record is damage, not a torn tail: it stays.
        valid = end;
    }
    if damaged > 0 {
        tracing::warn!("{}: {damaged} lines cannot be read", path.display());
    }
    Some(valid)
}

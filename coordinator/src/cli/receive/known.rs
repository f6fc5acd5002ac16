//! Which local files may be replaced by what comes back: those that nobody touched since the submit,
//! those that are as they were sent, and those that came back from the same job, or an earlier one of its
//! project, before. Any other is the user's own work.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use convoke_model::Digest;
use convoke_tree::Kind;
use serde::{Deserialize, Serialize};

use super::Place;
use crate::cli::cache::Shelf;
use crate::cli::ship::Sent;

/// What is known of a local file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Was<'a> {
    File(Digest),
    Symlink(&'a str),
}

/// Kept in a file of lines, so that a later `pull` knows what an earlier `up` wrote.
#[derive(Debug, Default)]
pub(crate) struct Known {
    sent: Sent,
    /// When the job was submitted from this machine, by its clock; nanoseconds since 1970.
    submitted: Option<i64>,
    received: HashMap<PathBuf, Digest>,
    record: Option<File>,
    /// The records of jobs whose files this one may have been started with.
    earlier: Vec<PathBuf>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Submitted { submitted_unix_ns: i64 },
    Received { path: PathBuf, sha256: Digest },
}

/// File systems date changes by a clock that lags behind a little.
const LAG: Duration = Duration::from_secs(1);

/// Remembers that job `id` was submitted from here, and that its files were looked at from `since` on.
pub(crate) fn submitted(id: &str, since: SystemTime) {
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(LAG);
    let submitted_unix_ns = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
    Known::open(id, Sent::new(), &[]).note(&Line::Submitted { submitted_unix_ns });
}

impl Known {
    /// What is known of job `id`'s files, `sent` being what its mounts held. What came back from the jobs `earlier`
    /// than it is no work of the user's either.
    pub(crate) fn open(id: &str, sent: Sent, earlier: &[String]) -> Self {
        let Some(dir) = Shelf::Received.make() else { return Self { sent, ..Self::default() } };
        let record = |id: &str| dir.join(format!("{id}.jsonl"));
        Self { earlier: earlier.iter().map(|id| record(id)).collect(), ..Self::read(&record(id), sent) }
    }

    pub(super) fn read(path: &Path, sent: Sent) -> Self {
        let (mut received, mut submitted) = (HashMap::new(), None);
        for line in lines(path) {
            match line {
                Line::Submitted { submitted_unix_ns } => submitted = Some(submitted_unix_ns),
                Line::Received { path, sha256 } => _ = received.insert(path, sha256),
            }
        }
        let record = File::options().create(true).append(true).open(path).ok();
        Self { sent, submitted, received, record, earlier: Vec::new() }
    }

    /// Notes that `digest` was written to a place.
    pub(crate) fn wrote(&mut self, place: &Place, digest: Digest) {
        let path = place.absolute();
        self.note(&Line::Received { path: path.clone(), sha256: digest });
        self.received.insert(path, digest);
    }

    fn note(&mut self, line: &Line) {
        // Half a line of an earlier crash must not swallow this one; a record that cannot be written
        // only means that a later pull leaves files alone that it could replace.
        if let (Some(record), Ok(text)) = (&mut self.record, serde_json::to_string(line)) {
            let _ = record.write_all(format!("\n{text}\n").as_bytes());
        }
    }

    /// True if a file that was last touched then, in nanoseconds since 1970, is as the submit found it.
    pub(crate) fn is_untouched(&self, changed: i64) -> bool {
        self.submitted.is_some_and(|submitted| changed < submitted)
    }

    /// True if what lies at a place is not the user's own work.
    pub(crate) fn may_replace(&self, place: &Place, local: Was<'_>) -> bool {
        let received = match local {
            Was::File(digest) => self.received.get(&place.absolute()) == Some(&digest),
            Was::Symlink(_) => false,
        };
        received || self.sent_as(place) == Some(local) || self.came_earlier(place, local)
    }

    /// Read anew each time: an earlier job's files may come at the same time, and it is seldom asked.
    fn came_earlier(&self, place: &Place, local: Was<'_>) -> bool {
        let at = place.absolute();
        let last = |record: &PathBuf| {
            let here = lines(record).filter_map(|line| match line {
                Line::Received { path, sha256 } if path == at => Some(sha256),
                _ => None,
            });
            here.last()
        };
        self.earlier.iter().filter_map(last).any(|digest| local == Was::File(digest))
    }

    fn sent_as(&self, place: &Place) -> Option<Was<'_>> {
        let entries = &self.sent.get(&place.mount)?.entries;
        let wanted = place.entry.split('/');
        let at = entries.binary_search_by(|entry| entry.path.split('/').cmp(wanted.clone())).ok()?;
        match &entries[at].kind {
            Kind::File { digest, .. } => Some(Was::File(*digest)),
            Kind::Symlink { target } => Some(Was::Symlink(target)),
            Kind::Dir => None,
        }
    }
}

/// Of a record, as far as there is one. A line that a crash cut in half is one that is not known.
fn lines(record: &Path) -> impl Iterator<Item = Line> {
    let lines = File::open(record)
        .into_iter()
        .flat_map(|file| BufReader::new(file).lines().map_while(io::Result::ok));
    lines.filter_map(|line| serde_json::from_str(&line).ok())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use convoke_tree::{Entry, Manifest};

    use super::*;

    fn place(entry: &str) -> Place {
        Place {
            root: "/p/out".into(),
            path: entry.into(),
            mount: "./out".to_owned(),
            entry: entry.to_owned(),
        }
    }

    fn sent() -> Sent {
        let entry = |path: &str, kind| Entry { path: path.to_owned(), mode: 0o644, kind };
        let file = |n| Kind::File { size: 1, digest: Digest([n; 32]) };
        let entries = vec![
            entry("a", Kind::Dir),
            entry("a/x", file(1)),
            entry("a-b", file(2)),
            entry("latest", Kind::Symlink { target: "a/x".to_owned() }),
        ];
        Sent::from([("./out".to_owned(), Arc::new(Manifest { entries }))])
    }

    #[test]
    fn what_was_sent_may_be_replaced_and_nothing_else() {
        let known = Known { sent: sent(), ..Known::default() };
        let file = |n| Was::File(Digest([n; 32]));
        assert!(known.may_replace(&place("a/x"), file(1)) && known.may_replace(&place("a-b"), file(2)));
        assert!(!known.may_replace(&place("a/x"), file(9)));
        assert!(!known.may_replace(&place("new"), file(1)));
        assert!(known.may_replace(&place("latest"), Was::Symlink("a/x")));
        assert!(!known.may_replace(&place("latest"), Was::Symlink("/etc")));
        assert!(!known.may_replace(&place("a/x"), Was::Symlink("a/x")));
    }

    #[test]
    fn what_came_back_before_may_be_replaced_also_by_a_later_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("job.jsonl");
        let mut known = Known::read(&path, Sent::new());
        known.wrote(&place("a"), Digest([1; 32]));
        // As a crash leaves it.
        known.record.as_mut().unwrap().write_all(b"{\"path\": \"/half").unwrap();
        let mut known = Known::read(&path, Sent::new());
        assert!(known.may_replace(&place("a"), Was::File(Digest([1; 32]))));
        known.wrote(&place("a"), Digest([2; 32]));
        let known = Known::read(&path, Sent::new());
        assert!(known.may_replace(&place("a"), Was::File(Digest([2; 32]))));
        assert!(!known.may_replace(&place("a"), Was::File(Digest([1; 32]))));
    }

    #[test]
    fn what_came_back_from_an_earlier_job_may_be_replaced_and_not_the_other_way_round() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first.jsonl"), dir.path().join("second.jsonl"));
        let mut producer = Known::read(&first, Sent::new());
        let mut consumer = Known { earlier: vec![first], ..Known::read(&second, Sent::new()) };
        let file = |n| Was::File(Digest([n; 32]));
        assert!(!consumer.may_replace(&place("a"), file(1)));
        producer.wrote(&place("a"), Digest([1; 32]));
        assert!(consumer.may_replace(&place("a"), file(1)) && !consumer.may_replace(&place("a"), file(9)));
        consumer.wrote(&place("a"), Digest([2; 32]));
        assert!(!producer.may_replace(&place("a"), file(2)));
    }

    #[test]
    fn what_was_last_touched_before_the_submit_is_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("job.jsonl");
        let mut known = Known::read(&path, Sent::new());
        assert!(!known.is_untouched(5), "nothing is known of a job of another machine");
        known.note(&Line::Submitted { submitted_unix_ns: 10 });
        let known = Known::read(&path, Sent::new());
        assert!(known.is_untouched(9) && !known.is_untouched(10));
    }
}

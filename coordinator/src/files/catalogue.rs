//! The catalogue of artifacts: which files came back from which job, in a redb file of its own, so that
//! a busy trainer's reports never wait in front of a decision.
//!
//! Tables: `artifacts` ((job, sequence) → JSON), `newest` ((job, mount, node rank, path) → the sequence
//! of that file's newest), `jobs` (job → last sequence given, files). A report is one transaction with
//! one fsync. A newer file takes the place of the older one; sequences only grow.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use convoke_model::{Artifact, Digest, JobId};
use redb::{ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};

use crate::database::{DatabaseError, DatabaseFile, Schema};
use crate::owner::Watchers;

type FileKey = (&'static str, &'static str, u32, &'static str);

const ARTIFACTS: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("artifacts");
const NEWEST: TableDefinition<FileKey, u64> = TableDefinition::new("newest");
const JOBS: TableDefinition<&str, (u64, u64)> = TableDefinition::new("jobs");

/// To go on without the catalogue, and what that costs.
const WITHOUT: &str = "delete the file to go on without it: files that came back from jobs and were not pulled are then \
                       forgotten, and deleted after a day";

static SCHEMA: Schema = Schema {
    what: "artifact catalogue",
    otherwise: WITHOUT,
    format: 1,
    create: |tx| {
        tx.open_table(ARTIFACTS)?;
        tx.open_table(NEWEST)?;
        tx.open_table(JOBS)?;
        Ok(())
    },
};

/// Files of one job: some thirty megabytes of catalogue. A job that writes more of them into a mounted
/// directory unpacks an archive or a data set there, which is better kept on the node.
const MAX_ARTIFACTS: u64 = 100_000;

#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogueError {
    #[error(
        "{MAX_ARTIFACTS} files of job {0} have come back, which is the limit; write fewer files below its mounts, or pack them"
    )]
    TooMany(JobId),
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

/// The catalogue; cheap to clone. Everything but the watchers blocks on the disk.
#[derive(Clone)]
pub(crate) struct Catalogue {
    file: Arc<DatabaseFile>,
    /// After a failed write the file must be opened again before the next.
    failed: Arc<AtomicBool>,
    /// Files of one job.
    limit: u64,
    /// Woken after each report.
    pub(crate) news: Arc<Watchers>,
}

impl Catalogue {
    /// Opens the catalogue; one that is not there is made. An empty file is a new one only where no content is
    /// `kept`: what a catalogue that lost its own names would be swept away.
    pub(crate) fn open(path: &Path, kept: bool) -> Result<Self, DatabaseError> {
        match std::fs::metadata(path) {
            Ok(file) if kept && file.len() == 0 => {
                let (what, path, otherwise) = (SCHEMA.what, path.to_owned(), WITHOUT);
                let problem = "it is empty, and files are kept".to_owned();
                return Err(DatabaseError::Damaged { what, path, problem, otherwise });
            }
            Err(error) if kept && error.kind() == std::io::ErrorKind::NotFound => tracing::warn!(
                "there is no artifact catalogue {}: files that came back from jobs and were not pulled are forgotten",
                path.display()
            ),
            Ok(_) | Err(_) => {}
        }
        Ok(Self::on(DatabaseFile::at(path, &SCHEMA)?))
    }

    fn on(file: DatabaseFile) -> Self {
        Self { file: Arc::new(file), failed: Arc::default(), limit: MAX_ARTIFACTS, news: Arc::default() }
    }

    /// Keeps these, durably. One that is known just so keeps its sequence.
    pub(crate) fn report(&self, job: &JobId, artifacts: &[Artifact]) -> Result<(), CatalogueError> {
        if !self.write(|tx| keep(tx, job.as_str(), artifacts, self.limit))? {
            return Err(CatalogueError::TooMany(job.clone()));
        }
        self.news.wake(job);
        Ok(())
    }

    /// At most `limit` artifacts after a position, with their sequences.
    pub(crate) fn read(
        &self,
        job: &JobId,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Artifact)>, CatalogueError> {
        let rows = self.file.with(|database| {
            let table = database.begin_read()?.open_table(ARTIFACTS)?;
            let range = (job.as_str(), after.saturating_add(1))..=(job.as_str(), u64::MAX);
            let mut rows = Vec::new();
            for row in table.range(range)?.take(limit) {
                let (key, json) = row?;
                rows.push((key.value().1, json.value().to_vec()));
            }
            Ok(rows)
        })?;
        rows.into_iter().map(|(sequence, json)| Ok((sequence, self.parse(sequence, &json)?))).collect()
    }

    /// Hands over the content of every artifact of every job.
    pub(crate) fn each_digest(&self, mut take: impl FnMut(Digest)) -> Result<(), DatabaseError> {
        let damaged = self.file.with(|database| {
            let table = database.begin_read()?.open_table(ARTIFACTS)?;
            for row in table.iter()? {
                let (key, json) = row?;
                match self.parse(key.value().1, json.value()) {
                    Ok(artifact) => take(artifact.digest),
                    Err(error) => return Ok(Some(error)),
                }
            }
            Ok(None)
        })?;
        damaged.map_or(Ok(()), Err)
    }

    /// Drops everything of a job.
    pub(crate) fn forget(&self, job: &JobId) -> Result<(), DatabaseError> {
        self.write(|tx| drop_job(tx, job.as_str()))
    }

    /// Drops everything of jobs that are not known.
    pub(crate) fn retain(&self, known: impl Fn(&str) -> bool) -> Result<(), DatabaseError> {
        let unknown = self.file.with(|database| {
            let table = database.begin_read()?.open_table(JOBS)?;
            let mut unknown = Vec::new();
            for row in table.iter()? {
                let (job, _) = row?;
                if !known(job.value()) {
                    unknown.push(job.value().to_owned());
                }
            }
            Ok(unknown)
        })?;
        for job in unknown {
            tracing::info!("removing the artifacts of job {job}, which is not known");
            self.write(|tx| drop_job(tx, &job))?;
        }
        Ok(())
    }

    fn write<T>(
        &self,
        body: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, DatabaseError> {
        if self.failed.load(Ordering::Acquire) {
            self.file.reopen()?;
            self.failed.store(false, Ordering::Release);
        }
        self.file.write(body).inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    fn parse(&self, sequence: u64, json: &[u8]) -> Result<Artifact, DatabaseError> {
        serde_json::from_slice(json)
            .map_err(|error| self.file.damaged(format!("artifact {sequence}: {error}")))
    }
}

/// Writes the artifacts; false, and nothing, if they are too many.
fn keep(tx: &WriteTransaction, job: &str, artifacts: &[Artifact], limit: u64) -> Result<bool, redb::Error> {
    let (mut rows, mut newest, mut jobs) =
        (tx.open_table(ARTIFACTS)?, tx.open_table(NEWEST)?, tx.open_table(JOBS)?);
    let (mut last, mut files) = jobs.get(job)?.map_or((0, 0), |row| row.value());
    let mut added = 0;
    for artifact in artifacts {
        added += u64::from(newest.get(key(job, artifact))?.is_none());
    }
    if files.saturating_add(added) > limit {
        return Ok(false);
    }
    for artifact in artifacts {
        let json = serde_json::to_vec(artifact).expect("an artifact is plain data");
        let old = newest.get(key(job, artifact))?.map(|row| row.value());
        if let Some(old) = old {
            if rows.get((job, old))?.is_some_and(|row| row.value() == json) {
                continue;
            }
            rows.remove((job, old))?;
        }
        files += u64::from(old.is_none());
        last += 1;
        rows.insert((job, last), json.as_slice())?;
        newest.insert(key(job, artifact), last)?;
    }
    jobs.insert(job, (last, files))?;
    Ok(true)
}

fn key<'a>(job: &'a str, artifact: &'a Artifact) -> (&'a str, &'a str, u32, &'a str) {
    (job, &artifact.mount, artifact.node_rank.0, &artifact.path)
}

fn drop_job(tx: &WriteTransaction, job: &str) -> Result<(), redb::Error> {
    // No id has a NUL character, so that nothing of another job lies before this.
    let end = format!("{job}\0");
    tx.open_table(ARTIFACTS)?.retain_in((job, 0)..(end.as_str(), 0), |_, _| false)?;
    tx.open_table(NEWEST)?.retain_in((job, "", 0, "")..(end.as_str(), "", 0, ""), |_, _| false)?;
    tx.open_table(JOBS)?.remove(job)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use convoke_model::{Generation, NodeId, NodeRank, Timestamp};

    use super::*;

    fn artifact(path: &str, node_rank: u32, content: u8) -> Artifact {
        Artifact {
            generation: Generation(1),
            node: NodeId::new("n").unwrap(),
            node_rank: NodeRank(node_rank),
            mount: "./out".to_owned(),
            path: path.to_owned(),
            size: 1,
            digest: Digest([content; 32]),
            mode: 0o644,
            modified: Timestamp(1),
        }
    }

    fn job(id: &str) -> JobId {
        JobId::new(id).unwrap()
    }

    fn listed(catalogue: &Catalogue, id: &str, after: u64) -> Vec<(u64, String, u32, u8)> {
        let found = catalogue.read(&job(id), after, 1_000).unwrap();
        found.into_iter().map(|(n, a)| (n, a.path, a.node_rank.0, a.digest.0[0])).collect()
    }

    fn row(sequence: u64, path: &str, rank: u32, content: u8) -> (u64, String, u32, u8) {
        (sequence, path.to_owned(), rank, content)
    }

    #[test]
    fn the_last_report_of_a_file_counts_and_sequences_only_grow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("artifacts.redb");
        let catalogue = Catalogue::open(&path, false).unwrap();
        let first = [artifact("a", 0, 1), artifact("b", 0, 1), artifact("a", 1, 1)];
        catalogue.report(&job("j"), &first).unwrap();
        catalogue.report(&job("j"), &[artifact("a", 0, 2), artifact("b", 0, 1)]).unwrap();
        catalogue.report(&job("j2"), &first[..1]).unwrap();
        drop(catalogue);
        let catalogue = Catalogue::open(&path, false).unwrap();
        assert_eq!(listed(&catalogue, "j", 0), [row(2, "b", 0, 1), row(3, "a", 1, 1), row(4, "a", 0, 2)]);
        assert_eq!(listed(&catalogue, "j", 3), [row(4, "a", 0, 2)]);
        catalogue.report(&job("j"), &[artifact("a", 0, 3), artifact("a", 0, 4)]).unwrap();
        assert_eq!(listed(&catalogue, "j", 3), [row(6, "a", 0, 4)]);
        assert_eq!(listed(&catalogue, "j2", 0), [row(1, "a", 0, 1)]);
        let mut digests = Vec::new();
        catalogue.each_digest(|digest| digests.push(digest.0[0])).unwrap();
        assert_eq!(digests, [1, 1, 4, 1]);
    }

    #[test]
    fn a_forgotten_or_unknown_job_leaves_nothing_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::open(&dir.path().join("artifacts.redb"), false).unwrap();
        for id in ["j", "j1", "j-2", "k"] {
            catalogue.report(&job(id), &[artifact("a", 0, 1), artifact("b", 7, 1)]).unwrap();
        }
        catalogue.forget(&job("j")).unwrap();
        catalogue.retain(|id| id == "j1").unwrap();
        let left = |id| listed(&catalogue, id, 0).len();
        assert_eq!((left("j"), left("j1"), left("j-2"), left("k")), (0, 2, 0, 0));
        catalogue.report(&job("j"), &[artifact("a", 0, 1)]).unwrap();
        assert_eq!(listed(&catalogue, "j", 0), [row(1, "a", 0, 1)]);
    }

    #[test]
    fn a_job_with_too_many_files_is_refused_whole_but_may_still_replace_them() {
        let dir = tempfile::tempdir().unwrap();
        let catalogue = Catalogue::open(&dir.path().join("artifacts.redb"), false).unwrap();
        let catalogue = Catalogue { limit: 3, ..catalogue };
        let three = ["a", "b", "c"].map(|path| artifact(path, 0, 1));
        catalogue.report(&job("j"), &three).unwrap();
        let more = catalogue.report(&job("j"), &[artifact("a", 0, 2), artifact("new", 0, 1)]);
        assert!(matches!(more, Err(CatalogueError::TooMany(_))));
        assert_eq!(listed(&catalogue, "j", 3), []);
        catalogue.report(&job("j"), &[artifact("a", 0, 2)]).unwrap();
        assert_eq!(listed(&catalogue, "j", 3), [row(4, "a", 0, 2)]);
    }

    #[test]
    fn a_full_disk_is_named_and_the_catalogue_works_again_when_there_is_space() {
        let dir = tempfile::tempdir().unwrap();
        let full = Arc::new(AtomicBool::new(false));
        let path = dir.path().join("artifacts.redb");
        let catalogue = Catalogue::on(crate::database::full_disk::open_on(&path, &SCHEMA, full.clone()));
        catalogue.report(&job("j"), &[artifact("a", 0, 1)]).unwrap();
        full.store(true, Ordering::SeqCst);
        for _ in 0..2 {
            let error = catalogue.report(&job("j"), &[artifact("b", 0, 1)]).unwrap_err();
            let disk_full =
                CatalogueError::Database(DatabaseError::DiskFull { what: "", path: path.clone() });
            assert_eq!(std::mem::discriminant(&error), std::mem::discriminant(&disk_full), "{error}");
        }
        full.store(false, Ordering::SeqCst);
        catalogue.report(&job("j"), &[artifact("c", 0, 1)]).unwrap();
        assert_eq!(listed(&catalogue, "j", 0), [row(1, "a", 0, 1), row(2, "c", 0, 1)]);
    }
}

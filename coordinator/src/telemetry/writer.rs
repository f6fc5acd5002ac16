//! The one writer of all telemetry: a thread that takes pushes in batches, makes each job's part
//! durable with one write and one fsync per series, and answers.
//!
//! Metrics first, then log lines: a crash in between leaves a metric whose line comes again, and the
//! metric series' own cursor drops it the second time. Nothing is lost or stored twice.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use convoke_model::JobId;
use tokio::sync::{mpsc, oneshot};

use super::record::{Cursor, Entry, Metric, Record, StreamId, StreamKind};
use super::series::{GENERATIONS_KEPT, Gaps, Limits, Series, Shared};
use super::{Feed, Push, Stored, TelemetryError};
use crate::Retention;
use crate::data_dir::is_disk_full;

pub(super) enum Request {
    Push { push: Push, reply: oneshot::Sender<Result<Stored, TelemetryError>> },
    Open { job: JobId, reply: oneshot::Sender<Result<Feed, TelemetryError>> },
    Forget { job: JobId },
    Stop,
}

type Waiting = (Push, oneshot::Sender<Result<Stored, TelemetryError>>);

/// Pushes that one round takes at most; with 4 MiB each, a round is at most 64 MiB.
const BATCH: usize = 16;

/// What the writer knows of a job on disk.
struct Usage {
    bytes: u64,
    last_write: SystemTime,
}

struct JobSeries {
    log: Series,
    metric: Series,
}

pub(super) struct Writer {
    root: PathBuf,
    retention: Retention,
    /// One entry per job that was touched since the start; the core bounds the number of jobs.
    open: HashMap<JobId, JobSeries>,
    usage: BTreeMap<JobId, Usage>,
}

impl Writer {
    /// Looks at what is there, and removes the telemetry of jobs that nobody knows any more.
    pub(super) fn new(root: &Path, retention: Retention, known: &BTreeSet<JobId>) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        let mut usage = BTreeMap::new();
        for entry in std::fs::read_dir(root)? {
            let entry = entry?;
            let job = entry.file_name().to_str().and_then(|name| JobId::new(name).ok());
            match job {
                Some(job) if known.contains(&job) => {
                    usage.insert(job, usage_of(&entry.path())?);
                }
                Some(job) => {
                    tracing::info!("removing the telemetry of job {job}, which is forgotten");
                    std::fs::remove_dir_all(entry.path())?;
                }
                None => tracing::warn!("{} is not telemetry: left alone", entry.path().display()),
            }
        }
        Ok(Self { root: root.to_owned(), retention, open: HashMap::new(), usage })
    }

    /// Serves requests until told to stop, or until every handle is gone.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut batch = Vec::new();
            let mut stop = false;
            let mut next = Some(first);
            while let Some(request) = next.take() {
                match request {
                    Request::Push { push, reply } => batch.push((push, reply)),
                    Request::Open { job, reply } => {
                        let _ = reply.send(self.feed(&job));
                    }
                    Request::Forget { job } => self.forget(&job),
                    Request::Stop => stop = true,
                }
                if batch.len() < BATCH && !stop {
                    next = requests.try_recv().ok();
                }
            }
            self.store(batch);
            if stop {
                return;
            }
        }
    }

    fn store(&mut self, batch: Vec<Waiting>) {
        let mut by_job: BTreeMap<JobId, Vec<Waiting>> = BTreeMap::new();
        for waiting in batch {
            by_job.entry(waiting.0.job.clone()).or_default().push(waiting);
        }
        for (job, mut waiting) in by_job {
            let records = waiting.iter_mut().map(|(push, _)| std::mem::take(&mut push.records));
            let records: Vec<Record> = records.flatten().collect();
            let stored = self.store_job(&job, records);
            for (push, reply) in waiting {
                // A caller that went away asks again on its next connection.
                let _ = reply.send(match &stored {
                    Ok(()) => Ok(self.stored(&job, push.stream)),
                    Err(error) => Err(error.clone()),
                });
            }
        }
        self.bound_total();
    }

    fn store_job(&mut self, job: &JobId, records: Vec<Record>) -> Result<(), TelemetryError> {
        let failed = |error: io::Error| TelemetryError::of_io(job, &error);
        let series = self.series(job).map_err(failed)?;
        let oldest = oldest_kept(&series.log).max(oldest_kept(&series.metric));
        let records = records.into_iter().filter(|r| r.stream.generation >= oldest);
        let (metrics, output): (Vec<_>, Vec<_>) = records.partition(|r| r.stream.kind == StreamKind::Metrics);
        // With the output's end: who follows the metrics looks at one series, and is woken by it.
        let kept = |r: &&Record| r.entry == Entry::End || Metric::of_record(r).is_some();
        let found = output.iter().filter(kept).cloned().collect();
        series.metric.append(found, Gaps::Expected).map_err(failed)?;
        series.metric.append(metrics, Gaps::Marked).map_err(failed)?;
        series.log.append(output, Gaps::Marked).map_err(failed)?;
        let bytes = series.log.shared().published().bytes() + series.metric.shared().published().bytes();
        self.usage.insert(job.clone(), Usage { bytes, last_write: SystemTime::now() });
        Ok(())
    }

    fn stored(&self, job: &JobId, stream: StreamId) -> Stored {
        let Some(series) = self.open.get(job) else { return Stored::Unwanted };
        if stream.generation < oldest_kept(&series.log).max(oldest_kept(&series.metric)) {
            return Stored::Unwanted;
        }
        let Cursor { next, .. } = match stream.kind {
            StreamKind::Output => series.log.cursor(stream),
            StreamKind::Metrics => series.metric.cursor(stream),
        };
        Stored::UpTo(next)
    }

    fn feed(&mut self, job: &JobId) -> Result<Feed, TelemetryError> {
        let series = self.series(job).map_err(|e| TelemetryError::of_io(job, &e))?;
        let shared = |series: &Series| -> Arc<Shared> { series.shared().clone() };
        Ok(Feed { log: shared(&series.log), metric: shared(&series.metric) })
    }

    fn series(&mut self, job: &JobId) -> io::Result<&mut JobSeries> {
        if !self.open.contains_key(job) {
            let dir = self.root.join(job.as_str());
            let log = Series::open(&dir, "log", Limits::of_total(self.retention.logs_per_job))?;
            let metric = Series::open(&dir, "metric", Limits::of_total(self.retention.metrics_per_job))?;
            self.open.insert(job.clone(), JobSeries { log, metric });
        }
        Ok(self.open.get_mut(job).expect("it was just inserted"))
    }

    fn forget(&mut self, job: &JobId) {
        self.open.remove(job);
        self.usage.remove(job);
        if let Err(error) = remove_if_there(&self.root.join(job.as_str())) {
            tracing::warn!(
                "the telemetry of job {job} cannot be removed: {error}; the next start tries again"
            );
        }
    }

    /// Keeps the whole below its bound: the job that was silent longest loses its oldest segments
    /// first, log before metrics. Newest segments stay, for their cursors.
    fn bound_total(&mut self) {
        let mut total: u64 = self.usage.values().map(|u| u.bytes).sum();
        if total <= self.retention.telemetry_total {
            return;
        }
        let mut silent: Vec<(SystemTime, JobId)> =
            self.usage.iter().map(|(job, usage)| (usage.last_write, job.clone())).collect();
        silent.sort();
        for (_, job) in silent {
            match self.shrink(&job, total - self.retention.telemetry_total) {
                Ok(freed) => total -= freed,
                Err(error) => tracing::warn!("old telemetry of job {job} cannot be removed: {error}"),
            }
            if total <= self.retention.telemetry_total {
                return;
            }
        }
    }

    fn shrink(&mut self, job: &JobId, excess: u64) -> io::Result<u64> {
        let series = self.series(job)?;
        let size = |s: &JobSeries| s.log.shared().published().bytes() + s.metric.shared().published().bytes();
        let before = size(series);
        while before - size(series) < excess && (series.log.drop_oldest()? || series.metric.drop_oldest()?) {}
        let after = size(series);
        if let Some(usage) = self.usage.get_mut(job) {
            usage.bytes = after;
        }
        Ok(before - after)
    }
}

/// The oldest generation whose cursors are still kept.
fn oldest_kept(series: &Series) -> u64 {
    (series.shared().published().newest_generation() + 1).saturating_sub(GENERATIONS_KEPT)
}

fn usage_of(dir: &Path) -> io::Result<Usage> {
    let mut usage = Usage { bytes: 0, last_write: SystemTime::UNIX_EPOCH };
    for entry in std::fs::read_dir(dir)? {
        let metadata = entry?.metadata()?;
        usage.bytes += metadata.len();
        usage.last_write = usage.last_write.max(metadata.modified()?);
    }
    Ok(usage)
}

fn remove_if_there(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl TelemetryError {
    fn of_io(job: &JobId, error: &io::Error) -> Self {
        let what = format!("the telemetry of job {job}");
        match is_disk_full(error) {
            true => Self::DiskFull { what },
            false => Self::Io { what, problem: error.to_string() },
        }
    }
}

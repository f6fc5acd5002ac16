//! Following jobs live: their changes, lines and metrics as one series of updates.

mod prefix;
mod screen;
mod story;
mod to_the_end;
mod view;

use std::sync::Arc;
use std::time::Duration;

use convoke_proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::failure::Failure;
use super::follow::{Follow, JobChanges, LogLines, Metrics, Source};
use super::link::Link;
use super::receive::{Artifacts, Came, Receiver};

pub(crate) use prefix::Prefix;
pub(crate) use screen::Screen;
pub(crate) use to_the_end::to_the_end;
pub(crate) use view::View;

/// How long lines and metrics may still come after the last job has ended.
const TAIL: Duration = Duration::from_secs(10);

/// Batches between the streams and the screen. A slow terminal slows the streams down; a few
/// batches keep both busy.
const QUEUE: usize = 16;

/// Something new about job number `job`.
pub(crate) struct Update {
    pub(crate) job: usize,
    pub(crate) what: What,
}

pub(crate) enum What {
    Job(Box<v1::Job>),
    Lines(Vec<v1::LogLine>),
    Metrics(Vec<v1::MetricRecord>),
    /// Files that came back.
    Files(Vec<Came>),
    /// No more files come.
    FilesOver,
}

/// The streams of some jobs, until all have ended.
pub(crate) struct Attachment {
    updates: mpsc::Receiver<Result<Update, Failure>>,
    running: Vec<bool>,
    /// Jobs whose last files are not here yet.
    bringing: Vec<bool>,
    /// Ends the streams when dropped.
    _tasks: JoinSet<()>,
}

impl Attachment {
    /// `receivers` bring the files of those jobs that have some.
    pub(crate) fn new(link: &Arc<Link>, jobs: &[v1::Job], receivers: Vec<Option<Receiver>>) -> Self {
        let (sender, updates) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        let bringing: Vec<_> = receivers.iter().map(Option::is_some).collect();
        for (index, job) in jobs.iter().enumerate() {
            let of = move |what| Update { job: index, what };
            let changes = Follow::new(link.clone(), JobChanges::of(&job.id));
            tasks.spawn(pump(changes, sender.clone(), move |jobs| {
                jobs.into_iter().map(|job| of(What::Job(Box::new(job)))).collect()
            }));
            let request = v1::StreamLogsRequest { job: job.id.clone(), follow: true, ..Default::default() };
            let lines = Follow::new(link.clone(), LogLines::new(request));
            tasks.spawn(pump(lines, sender.clone(), move |lines| vec![of(What::Lines(lines))]));
            let request =
                v1::StreamMetricsRequest { job: job.id.clone(), follow: true, ..Default::default() };
            let metrics = Follow::new(link.clone(), Metrics::new(request));
            tasks.spawn(pump(metrics, sender.clone(), move |records| vec![of(What::Metrics(records))]));
        }
        for (index, receiver) in receivers.into_iter().enumerate() {
            if let Some(receiver) = receiver {
                let artifacts = Follow::new(link.clone(), Artifacts::of(&jobs[index].id, true));
                tasks.spawn(bring(artifacts, receiver, sender.clone(), index));
            }
        }
        Self { updates, running: vec![true; jobs.len()], bringing, _tasks: tasks }
    }

    /// True when the jobs have ended and only their files are waited for.
    pub(crate) fn only_files_are_to_come(&self) -> bool {
        !self.running.contains(&true) && self.bringing.contains(&true)
    }

    /// How long the next update is waited for. Jobs end, and so do the streams of their files, by
    /// themselves or by the link's patience; last lines that are missing are no reason to hang.
    fn patience(&self) -> Option<Duration> {
        let to_come = self.running.contains(&true) || self.bringing.contains(&true);
        (!to_come).then_some(TAIL)
    }

    /// The next update; `None` when all jobs have ended and nothing more comes. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Update>, Failure> {
        let next = match self.patience() {
            None => self.updates.recv().await,
            Some(limit) => tokio::time::timeout(limit, self.updates.recv()).await.unwrap_or_default(),
        };
        let Some(update) = next.transpose()? else { return Ok(None) };
        match &update.what {
            What::Job(job) => self.running[update.job] = !super::text::is_final(job),
            What::FilesOver => self.bringing[update.job] = false,
            What::Lines(_) | What::Metrics(_) | What::Files(_) => {}
        }
        Ok(Some(update))
    }
}

/// Sends what `follow` brings until its end, or until nobody listens.
async fn pump<S: Source>(
    mut follow: Follow<S>,
    sender: mpsc::Sender<Result<Update, Failure>>,
    wrap: impl Fn(Vec<S::Item>) -> Vec<Update>,
) {
    loop {
        match follow.next().await {
            Ok(None) => return,
            Ok(Some(items)) => {
                for update in wrap(items) {
                    if sender.send(Ok(update)).await.is_err() {
                        return;
                    }
                }
            }
            Err(failure) => {
                // Nobody listens any more: nobody needs to know.
                let _ = sender.send(Err(failure)).await;
                return;
            }
        }
    }
}

/// Brings a job's files until there are no more, or nobody listens.
async fn bring(
    mut artifacts: Follow<Artifacts>,
    mut receiver: Receiver,
    sender: mpsc::Sender<Result<Update, Failure>>,
    job: usize,
) {
    loop {
        let what = match artifacts.next().await {
            Ok(Some(batch)) => receiver.take(batch).await.map(What::Files),
            Ok(None) => Ok(What::FilesOver),
            Err(failure) => Err(failure),
        };
        let last = !matches!(what, Ok(What::Files(_)));
        if sender.send(what.map(|what| Update { job, what })).await.is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_are_waited_for_as_long_as_they_take_and_last_lines_are_not() {
        let (sender, updates) = mpsc::channel(QUEUE);
        let mut attachment =
            Attachment { updates, running: vec![true], bringing: vec![true], _tasks: JoinSet::new() };
        assert_eq!(attachment.patience(), None);
        let ended = v1::Job { state: v1::JobState::Succeeded.into(), ..Default::default() };
        for what in [What::Job(Box::new(ended)), What::Files(Vec::new())] {
            sender.send(Ok(Update { job: 0, what })).await.unwrap();
            attachment.next().await.unwrap();
            assert_eq!((attachment.patience(), attachment.only_files_are_to_come()), (None, true));
        }
        sender.send(Ok(Update { job: 0, what: What::FilesOver })).await.unwrap();
        attachment.next().await.unwrap();
        assert_eq!((attachment.patience(), attachment.only_files_are_to_come()), (Some(TAIL), false));
    }
}

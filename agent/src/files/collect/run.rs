//! The collector itself.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use convoke_model::{Progress, ReplicaKey};
use convoke_transport::Backoff;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::journal::Journal;
use super::judge::Start;
use super::motion::Motion;
use super::scan::{LINK, Odd, Scan, Seen};
use super::send::SendError;
use super::tell::{Stays, Teller};
use super::writers::is_written;
use super::{Looks, Phase};
use crate::blocking::blocking;
use crate::files::Files;
use crate::files::laid::OwnCopy;
use crate::files::owed::Owed;
use crate::progress::Step;

/// How often the copies are looked through, and how much longer than a look took to wait: at most a
/// tenth of a core.
const LOOK: Duration = Duration::from_secs(1);
const SHARE: u32 = 10;
/// The same at the end, when the replica waits for it: nothing changes any more, and the second look
/// finds nothing.
const LAST_LOOKS: Duration = Duration::from_millis(20);
/// Files and bytes that are hashed and sent together: what is ready is not kept waiting for long.
const BATCH_FILES: usize = 1_000;
const BATCH_BYTES: u64 = 256 << 20;
/// What is sent at the end is told as progress from here on: people wait for it, and wonder.
const TOLD: u64 = 64 << 20;
/// What fails for longer is a condition of the node; a coordinator that restarts is not.
const PATIENCE: Duration = Duration::from_secs(15);
/// What fails for long is tried so much less often as it has failed, and at least this often: each try may read and
/// send all of a large file.
const LATE: u32 = 10;
const SELDOM: Duration = Duration::from_secs(60);

pub(super) struct Gatherer {
    pub(super) files: Arc<Files>,
    pub(super) key: ReplicaKey,
    pub(super) copies: Arc<Vec<OwnCopy>>,
    pub(super) starts: Arc<Vec<Start>>,
    pub(super) looks: Looks,
    pub(super) journal: Option<Journal>,
    ended: watch::Receiver<bool>,
    pub(super) motion: Motion,
    /// Whoever reads for it is to give up.
    pub(super) halt: Arc<AtomicBool>,
    pub(super) began: Instant,
    /// Since when nothing could be sent.
    failing: Option<Instant>,
    teller: Arc<Teller>,
    pub(super) stays: Stays,
    /// What is sent at the end, told until it is.
    step: Option<Step>,
}

impl Gatherer {
    pub(super) fn new(
        files: Arc<Files>,
        key: ReplicaKey,
        copies: Vec<OwnCopy>,
        ended: watch::Receiver<bool>,
        teller: Arc<Teller>,
    ) -> Self {
        Self {
            files,
            key,
            copies: Arc::new(copies),
            starts: Arc::default(),
            looks: Looks::default(),
            journal: None,
            ended,
            motion: Motion::default(),
            halt: Arc::default(),
            began: Instant::now(),
            failing: None,
            teller,
            stays: Stays::default(),
            step: None,
        }
    }

    /// Runs until the tasks have ended and everything is settled, or nothing of the generation is taken any more.
    pub(super) async fn run(mut self, phase: watch::Sender<Phase>) {
        self.remember().await;
        let mut backoff = Backoff::default();
        loop {
            // Asked before looking: what ended tasks left is all there.
            let ended = *self.ended.borrow();
            let looked = Instant::now();
            let outcome = match self.look(ended).await {
                Ok(due) if due.is_empty() && ended => break,
                Ok(due) => {
                    let took = looked.elapsed();
                    self.bring(due, ended)
                        .await
                        .map(|all| if all { LOOK.max(took * SHARE) } else { LAST_LOOKS })
                }
                Err(error) => Err(SendError::Interrupted(error)),
            };
            match outcome {
                Ok(pause) => {
                    self.mended();
                    backoff.reset();
                    tokio::select! {
                        () = tokio::time::sleep(if ended { LAST_LOOKS } else { pause }) => {}
                        _ = self.ended.wait_for(|ended| *ended), if !ended => {}
                    }
                }
                Err(SendError::Over(why) | SendError::Full(why) | SendError::Refused(why)) => {
                    self.stays.end(why);
                    break;
                }
                Err(SendError::Interrupted(problem)) => self.failed(&problem, &mut backoff).await,
            }
        }
        self.step = None;
        self.teller.stays(&self.stays);
        phase.send_replace(self.end().await);
        // Last: whoever tells the end beside this looks at the phase once more.
        self.teller.over();
    }

    /// Takes the mark away if all is home.
    async fn end(&self) -> Phase {
        if !self.stays.is_empty() {
            return Phase::Left;
        }
        let replica = self.files.replica_dir(&self.key);
        match blocking(move || Owed::Files.clear(&replica).map_err(|e| e.to_string())).await.flatten() {
            Ok(()) => {}
            // It is looked through once more by the next agent, which finds nothing.
            Err(error) => warn!(job = %self.key.job, "that all files are home cannot be noted: {error}"),
        }
        Phase::Home
    }

    /// What an earlier agent knew, and what was there at the start.
    async fn remember(&mut self) {
        let mut starts = Vec::new();
        for copy in self.copies.iter() {
            let manifest = self.files.cache.known(copy.tree).await.ok().flatten();
            if manifest.is_none() {
                warn!(
                    source = copy.source,
                    "the cache does not know how it was at the start; all of it comes back"
                );
            }
            starts.push(manifest.map(|manifest| Start::of(&manifest)).unwrap_or_default());
        }
        self.starts = Arc::new(starts);
        let replica = self.files.replica_dir(&self.key);
        match blocking(move || Journal::open(&replica).map_err(|e| e.to_string())).await {
            Ok(Ok((journal, settled))) => {
                self.journal = Some(journal);
                self.looks = Looks::new(settled);
            }
            Ok(Err(error)) | Err(error) => {
                warn!("{error}; files that came back are sent again after a restart")
            }
        }
    }

    /// Looks through the copies; returns what is to be judged, smallest first.
    async fn look(&mut self, ended: bool) -> Result<Vec<Seen>, String> {
        let (copies, replica) = (self.copies.clone(), self.files.replica_dir(&self.key));
        let (mut looks, now) = (std::mem::take(&mut self.looks), self.began.elapsed());
        let looking = blocking(move || {
            let mut scan = Scan::default();
            let looked = copies.iter().enumerate().try_for_each(|(n, copy)| {
                scan.add(n, copy, &replica).map_err(|e| format!("{}: {e}", copy.changes(&replica)))
            });
            let written = |file: &Seen| {
                let path = copies[file.copy].changed(&replica, &file.path);
                path.open().is_ok_and(|file| is_written(&file))
            };
            let due = looked.map(|()| looks.look(now, std::mem::take(&mut scan.files), ended, written));
            (looks, scan, due)
        });
        let (looks, Scan { odd, cut, .. }, due) = looking.await?;
        self.looks = looks;
        let mut due = due?;
        self.note(odd, cut);
        due.sort_by_key(|file| file.stamp.size);
        Ok(due)
    }

    /// Judges files and sends those that differ from the start. Before the end, large files wait for those that
    /// may have come to rest meanwhile: false if not all were judged.
    async fn bring(&mut self, due: Vec<Seen>, ended: bool) -> Result<bool, SendError> {
        let (mut done, total) = (0, due.iter().map(|file| file.stamp.size).sum());
        if ended && total >= TOLD && self.step.is_none() {
            self.step = Some(self.files.progresses.begin(&self.key));
        }
        let mut due = due.into_iter().peekable();
        while due.peek().is_some() {
            if let Some(step) = &self.step {
                step.tell(Progress { what: "returns files".to_owned(), done, total });
            }
            let (mut batch, mut size) = (Vec::new(), 0);
            while let Some(file) = due.next_if(|f| {
                batch.is_empty() || batch.len() < BATCH_FILES && size + f.stamp.size <= BATCH_BYTES
            }) {
                size += file.stamp.size;
                batch.push(file);
            }
            if self.bring_batch(batch).await? {
                self.motion.arrived();
            }
            self.mended();
            done += size;
            if !ended && size >= BATCH_BYTES {
                return Ok(due.peek().is_none());
            }
        }
        Ok(true)
    }

    /// Says once what does not travel, and takes note of what cannot be looked at.
    fn note(&mut self, odd: Vec<Odd>, cut: bool) {
        let starts = self.starts.clone();
        let was_there = |odd: &Odd| {
            odd.why == LINK && starts.get(odd.copy).is_some_and(|start| start.had_link(&odd.path))
        };
        self.stays.retain(|id| self.looks.settled(id).is_some());
        if self.stays.look(odd, cut, was_there) {
            self.teller.odd(&self.stays, |n| self.copies[n].source.clone());
        }
        self.teller.stays(&self.stays);
    }

    async fn failed(&mut self, problem: &str, backoff: &mut Backoff) {
        let since = self.failing.get_or_insert_with(Instant::now).elapsed();
        debug!(job = %self.key.job, "returning files: {problem}");
        self.teller.failed(problem);
        if since >= PATIENCE {
            self.teller.waiting();
        }
        let mut there = self.files.link.there();
        let pause = backoff.next_pause(Instant::now()).max((since / LATE).min(SELDOM));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // It is back, or away: neither happens often.
            Ok(()) = there.changed() => {}
        }
    }

    fn mended(&mut self) {
        if self.failing.take().is_some() {
            self.teller.mended();
        }
    }
}

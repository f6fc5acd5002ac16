//! The collector itself.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use convoke_model::{Progress, ReplicaKey};
use convoke_transport::Backoff;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::journal::Journal;
use super::judge::{self, Read, Start};
use super::looks::Settled;
use super::scan::{LINK, Odd, Scan, Seen};
use super::send::{Ready, SendError, send};
use super::writers::is_written;
use super::{Looks, MAX_FILES};
use crate::beneath::Beneath;
use crate::blocking::blocking;
use crate::files::Files;
use crate::files::laid::OwnCopy;
use crate::files::space::bytes;
use crate::work::about;

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
/// Files that do not come back and are named in the log: a few tell what it is about.
const NAMED: usize = 100;

pub(super) struct Gatherer {
    files: Arc<Files>,
    key: ReplicaKey,
    copies: Arc<Vec<OwnCopy>>,
    starts: Arc<Vec<Start>>,
    looks: Looks,
    journal: Option<Journal>,
    ended: watch::Receiver<bool>,
    drained: watch::Sender<bool>,
    began: Instant,
    /// Since when nothing could be sent.
    failing: Option<Instant>,
    odd: BTreeSet<(usize, String)>,
}

impl Gatherer {
    pub(super) fn new(
        files: Arc<Files>,
        key: ReplicaKey,
        copies: Vec<OwnCopy>,
        ended: watch::Receiver<bool>,
        drained: watch::Sender<bool>,
    ) -> Self {
        Self {
            files,
            key,
            copies: Arc::new(copies),
            starts: Arc::default(),
            looks: Looks::default(),
            journal: None,
            ended,
            drained,
            began: Instant::now(),
            failing: None,
            odd: BTreeSet::new(),
        }
    }

    /// Runs until the tasks have ended and everything is settled, or the generation is over.
    pub(super) async fn run(mut self) {
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
                    self.bring(due, ended).await.map(|()| LOOK.max(took * SHARE))
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
                Err(error @ SendError::Stale) => {
                    info!(job = %self.key.job, generation = %self.key.generation, "files are not returned: {error}");
                    break;
                }
                Err(error @ (SendError::Full(_) | SendError::Refused(_))) => {
                    self.not_returned(format!("files of {} do not come back: {error}", about(&self.key)));
                    break;
                }
                Err(SendError::Interrupted(problem)) => {
                    self.failed(&problem);
                    backoff.pause().await;
                }
            }
        }
        self.mended();
        self.drained.send_replace(true);
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
        self.note(odd);
        if cut {
            self.not_returned(format!("{} has more files than are looked through", about(&self.key)));
        }
        due.sort_by_key(|file| file.stamp.size);
        Ok(due)
    }

    /// Judges files and sends those that differ from the start.
    async fn bring(&mut self, due: Vec<Seen>, ended: bool) -> Result<(), SendError> {
        let (mut done, total) = (0, due.iter().map(|file| file.stamp.size).sum());
        let step = (ended && total >= TOLD).then(|| self.files.progresses.begin(&self.key));
        let mut due = due.into_iter().peekable();
        while due.peek().is_some() {
            if let Some(step) = &step {
                step.tell(Progress { what: "returns files".to_owned(), done, total });
            }
            let (mut batch, mut size) = (Vec::new(), 0);
            while let Some(file) = due.next_if(|f| {
                batch.is_empty() || batch.len() < BATCH_FILES && size + f.stamp.size <= BATCH_BYTES
            }) {
                size += file.stamp.size;
                batch.push(file);
            }
            self.bring_batch(batch).await?;
            done += size;
        }
        Ok(())
    }

    async fn bring_batch(&mut self, batch: Vec<Seen>) -> Result<(), SendError> {
        let began = Instant::now();
        let (copies, replica) = (self.copies.clone(), self.files.replica_dir(&self.key));
        let read = blocking(move || {
            let read = |seen: Seen| {
                let path = copies[seen.copy].changed(&replica, &seen.path);
                let read = judge::read(&path, &seen);
                (seen, path, read)
            };
            batch.into_iter().map(read).collect::<Vec<_>>()
        });
        let read = read.await.map_err(SendError::Interrupted)?;
        let (mut settled, mut ready) = (HashMap::new(), Vec::new());
        for (seen, path, read) in read {
            match read {
                Ok(Read::Moving) => {}
                Ok(Read::Content(digest)) if self.is_home(&seen, digest) => {
                    let known = self.looks.settled(&(seen.copy, seen.path.clone()));
                    let returned = known.is_some_and(|known| known.returned);
                    settled.insert(
                        (seen.copy, seen.path),
                        Settled { stamp: seen.stamp, digest: Some(digest), mode: seen.mode, returned },
                    );
                }
                Ok(Read::Content(digest)) => ready.push(self.ready(seen, path, digest)),
                Err(error) => {
                    self.not_returned(format!("{path} cannot be read: {error}"));
                    let unread =
                        Settled { stamp: seen.stamp, digest: None, mode: seen.mode, returned: false };
                    settled.insert((seen.copy, seen.path), unread);
                }
            }
        }
        let (ready, beyond) = self.within_limits(ready);
        let sent = if ready.is_empty() { Vec::new() } else { self.send(ready).await? };
        let judged = sent.into_iter().chain(beyond.into_iter().map(|r| (r, false)));
        settled.extend(judged.map(|(ready, returned)| {
            let Ready { copy, path, stamp, mode, digest, .. } = ready;
            ((copy, path), Settled { stamp, digest: Some(digest), mode, returned })
        }));
        self.settle(settled, began.elapsed()).await;
        Ok(())
    }

    /// Sends files; returns which of them went home. One that is refused does not keep the others.
    async fn send(&self, ready: Vec<Ready>) -> Result<Vec<(Ready, bool)>, SendError> {
        match send(&self.files.link, &self.key, &ready).await {
            Ok(()) => {
                debug!(job = %self.key.job, files = ready.len(), "files came back");
                return Ok(ready.into_iter().map(|file| (file, true)).collect());
            }
            Err(SendError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        let mut judged = Vec::new();
        for file in ready {
            let sent = match send(&self.files.link, &self.key, std::slice::from_ref(&file)).await {
                Err(SendError::Refused(problem)) => {
                    self.not_returned(format!("{} does not come back: {problem}", file.on_disk));
                    false
                }
                sent => sent.map(|()| true)?,
            };
            judged.push((file, sent));
        }
        Ok(judged)
    }

    /// True if the coordinator, or the submitter, has exactly this already.
    fn is_home(&self, seen: &Seen, digest: convoke_model::Digest) -> bool {
        match self.looks.settled(&(seen.copy, seen.path.clone())) {
            Some(known) if known.returned => (known.digest, known.mode) == (Some(digest), seen.mode),
            _ => self.starts.get(seen.copy).is_some_and(|start| start.had(&seen.path, digest, seen.mode)),
        }
    }

    fn ready(&self, seen: Seen, on_disk: Beneath, digest: convoke_model::Digest) -> Ready {
        let Seen { copy, path, stamp, mode } = seen;
        let mount = self.copies[copy].source.clone();
        Ready { copy, path, mount, on_disk, stamp, mode, digest }
    }

    /// Splits off what exceeds the limits.
    fn within_limits(&self, ready: Vec<Ready>) -> (Vec<Ready>, Vec<Ready>) {
        let (mut files, mut size) = self.looks.returned();
        let (mut within, mut beyond) = (Vec::new(), Vec::new());
        for file in ready {
            let before = self.looks.settled(&(file.copy, file.path.clone())).filter(|known| known.returned);
            let more = file.stamp.size.saturating_sub(before.map_or(0, |known| known.stamp.size));
            let new = usize::from(before.is_none());
            if files + new > MAX_FILES || size + more > self.files.return_limit {
                beyond.push(file);
            } else {
                (files, size) = (files + new, size + more);
                within.push(file);
            }
        }
        if let Some(first) = beyond.first() {
            self.not_returned(format!(
                "{} has brought {files} files with {} home, and {} would be more than {MAX_FILES} files or {}: it stays \
                 on node {} until the replica is removed; write such files to shared storage, or set the agent's \
                 --return-limit",
                about(&self.key),
                bytes(size),
                first.on_disk,
                bytes(self.files.return_limit),
                self.files.node
            ));
        }
        (within, beyond)
    }

    async fn settle(&mut self, settled: HashMap<(usize, String), Settled>, took: Duration) {
        let now = self.began.elapsed();
        for (id, settled) in &settled {
            self.looks.settle(id.clone(), settled.clone(), now, took);
        }
        let Some(mut journal) = self.journal.take() else { return };
        let looks = std::mem::take(&mut self.looks);
        let noting = blocking(move || {
            let noted = journal.add(settled.iter(), looks.all()).map_err(|e| e.to_string());
            (looks, noted.map(|()| journal))
        });
        let noted = noting.await.and_then(|(looks, noted)| {
            self.looks = looks;
            noted
        });
        match noted {
            Ok(journal) => self.journal = Some(journal),
            Err(error) => {
                warn!(
                    "the files that came back cannot be noted: {error}; they are sent again after a restart"
                );
            }
        }
    }

    /// Says once what does not come back.
    fn note(&mut self, odd: Vec<Odd>) {
        for Odd { copy, path, why } in odd {
            let was_there = why == LINK && self.starts.get(copy).is_some_and(|start| start.had_link(&path));
            if was_there || self.odd.len() >= NAMED || !self.odd.insert((copy, path.clone())) {
                continue;
            }
            let source = &self.copies[copy].source;
            info!(job = %self.key.job, source, path, "a file does not come back: {why}");
        }
    }

    fn not_returned(&self, message: String) {
        self.files.warnings.raise("FilesNotReturned", &about(&self.key), message);
    }

    fn failed(&mut self, problem: &str) {
        let since = *self.failing.get_or_insert_with(Instant::now);
        debug!(job = %self.key.job, "returning files: {problem}");
        if since.elapsed() >= PATIENCE {
            let message =
                format!("files of {} are not returned yet, trying again: {problem}", about(&self.key));
            self.files.warnings.raise("ReturningFiles", &about(&self.key), message);
        }
    }

    fn mended(&mut self) {
        if self.failing.take().is_some() {
            self.files.warnings.clear("ReturningFiles", &about(&self.key));
        }
    }
}

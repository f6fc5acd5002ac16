//! A batch of files: judged, sent, settled.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use convoke_model::Digest;
use tracing::{debug, warn};

use super::MAX_FILES;
use super::judge::{self, Read};
use super::looks::{FileId, Settled};
use super::run::Gatherer;
use super::scan::Seen;
use super::send::{Ready, SendError, send};
use crate::beneath::Beneath;
use crate::blocking::blocking;
use crate::files::space::bytes;

type Judged = HashMap<FileId, Settled>;

impl Gatherer {
    /// True if something came of it: files that change all the time are not judged.
    pub(super) async fn bring_batch(&mut self, batch: Vec<Seen>) -> Result<bool, SendError> {
        let (began, mut judged, mut ready) = (Instant::now(), Judged::new(), Vec::new());
        // Not read at all: a sparse file of terabytes would take hours to be found too large.
        let (batch, large): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|seen| self.fits(&(seen.copy, seen.path.clone()), seen.stamp.size));
        for seen in large {
            let why = self.too_large(seen.stamp.size);
            self.stay(&mut judged, seen, None, why);
        }
        for (seen, path, read) in self.read(batch).await? {
            match read {
                Ok(Read::Moving) => {}
                Ok(Read::Content(digest)) if self.is_home(&seen, digest) => {
                    let id = (seen.copy, seen.path);
                    let returned = self.looks.settled(&id).is_some_and(|known| known.returned);
                    let Seen { stamp, mode, .. } = seen;
                    judged.insert(id, Settled { stamp, digest: Some(digest), mode, returned, stays: false });
                }
                Ok(Read::Content(digest)) => ready.push(self.ready(seen, path, digest)),
                Err(error) => self.stay(&mut judged, seen, None, format!("it cannot be read: {error}")),
            }
        }
        let ready = self.within_limits(ready, &mut judged);
        let sent = if ready.is_empty() { Vec::new() } else { self.send(ready).await? };
        for (Ready { copy, path, stamp, mode, digest, .. }, refused) in sent {
            match refused {
                Some(why) => self.stay(&mut judged, Seen { copy, path, stamp, mode }, Some(digest), why),
                None => {
                    let settled = Settled { stamp, digest: Some(digest), mode, returned: true, stays: false };
                    judged.insert((copy, path), settled);
                }
            }
        }
        let any = !judged.is_empty();
        self.settle(judged, began.elapsed()).await;
        Ok(any)
    }

    /// Reads files on a thread of its own, which gives up with the collector.
    async fn read(&self, batch: Vec<Seen>) -> Result<Vec<(Seen, Beneath, std::io::Result<Read>)>, SendError> {
        let (copies, replica) = (self.copies.clone(), self.files.replica_dir(&self.key));
        let (motion, halt) = (self.motion.clone(), self.halt.clone());
        let read = blocking(move || {
            let mut total = 0;
            let mut go_on = |bytes| {
                total += bytes;
                motion.read(total);
                !halt.load(Ordering::Relaxed)
            };
            let read = |seen: Seen| {
                let path = copies[seen.copy].changed(&replica, &seen.path);
                let read = judge::read(&path, &seen, &mut go_on);
                (seen, path, read)
            };
            batch.into_iter().map(read).collect::<Vec<_>>()
        });
        read.await.map_err(SendError::Interrupted)
    }

    /// Sends files; with why one was refused, which does not keep the others.
    async fn send(&self, ready: Vec<Ready>) -> Result<Vec<(Ready, Option<String>)>, SendError> {
        match send(&self.files.link, &self.key, &ready, &self.motion).await {
            Ok(()) => {
                debug!(job = %self.key.job, files = ready.len(), "files came back");
                return Ok(ready.into_iter().map(|file| (file, None)).collect());
            }
            Err(SendError::Refused(_)) => {}
            Err(error) => return Err(error),
        }
        let mut judged = Vec::new();
        for file in ready {
            let refused =
                match send(&self.files.link, &self.key, std::slice::from_ref(&file), &self.motion).await {
                    Ok(()) => None,
                    Err(SendError::Refused(problem)) => Some(problem),
                    Err(error) => return Err(error),
                };
            judged.push((file, refused));
        }
        Ok(judged)
    }

    /// True if the coordinator, or the submitter, has exactly this already.
    fn is_home(&self, seen: &Seen, digest: Digest) -> bool {
        match self.looks.settled(&(seen.copy, seen.path.clone())) {
            Some(known) if known.returned => (known.digest, known.mode) == (Some(digest), seen.mode),
            _ => self.starts.get(seen.copy).is_some_and(|start| start.had(&seen.path, digest, seen.mode)),
        }
    }

    fn ready(&self, seen: Seen, on_disk: Beneath, digest: Digest) -> Ready {
        let Seen { copy, path, stamp, mode } = seen;
        let mount = self.copies[copy].source.clone();
        Ready { copy, path, mount, on_disk, stamp, mode, digest }
    }

    /// True if this file alone does not exceed what may still come home.
    fn fits(&self, id: &FileId, size: u64) -> bool {
        let before =
            self.looks.settled(id).filter(|known| known.returned).map_or(0, |known| known.stamp.size);
        let (_, returned) = self.looks.returned();
        returned.saturating_sub(before).saturating_add(size) <= self.files.return_limit
    }

    /// Keeps back what exceeds the limits.
    fn within_limits(&mut self, ready: Vec<Ready>, judged: &mut Judged) -> Vec<Ready> {
        let (mut files, mut size) = self.looks.returned();
        let mut within = Vec::new();
        for file in ready {
            let before = self.looks.settled(&(file.copy, file.path.clone())).filter(|known| known.returned);
            let more = file.stamp.size.saturating_sub(before.map_or(0, |known| known.stamp.size));
            let new = usize::from(before.is_none());
            let why = if files + new > MAX_FILES {
                format!("{MAX_FILES} files have come back, which is the limit; pack them, or write fewer")
            } else if size.saturating_add(more) > self.files.return_limit {
                self.too_large(file.stamp.size)
            } else {
                (files, size) = (files + new, size + more);
                within.push(file);
                continue;
            };
            let Ready { copy, path, stamp, mode, digest, .. } = file;
            self.stay(judged, Seen { copy, path, stamp, mode }, Some(digest), why);
        }
        within
    }

    fn too_large(&self, size: u64) -> String {
        format!(
            "with its {} more than {} would come back of this replica; an agent that is started again with a larger \
             --return-limit sends it, and shared storage is better for such files",
            bytes(size),
            bytes(self.files.return_limit)
        )
    }

    /// Settles a file that stays here.
    fn stay(&mut self, judged: &mut Judged, seen: Seen, digest: Option<Digest>, why: String) {
        let Seen { copy, path, stamp, mode } = seen;
        let shown = format!("{}/{path}", self.copies[copy].source);
        let id = (copy, path);
        self.stays.add(id.clone(), shown, stamp.size, why);
        judged.insert(id, Settled { stamp, digest, mode, returned: false, stays: true });
    }

    async fn settle(&mut self, judged: Judged, took: Duration) {
        let now = self.began.elapsed();
        for (id, settled) in &judged {
            self.looks.settle(id.clone(), settled.clone(), now, took);
            if !settled.stays {
                self.stays.remove(id);
            }
        }
        let Some(mut journal) = self.journal.take() else { return };
        let looks = std::mem::take(&mut self.looks);
        let noting = blocking(move || {
            let noted = journal.add(judged.iter(), looks.all());
            (looks, noted.map(|()| journal).map_err(|e| e.to_string()))
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
}

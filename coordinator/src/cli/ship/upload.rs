//! Sending blobs: a few streams side by side, each a batch at a time. After a broken connection the
//! coordinator is asked what it still lacks, so that what was stored is not sent again.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use convoke_model::Digest;
use convoke_proto::v1;
use convoke_proto::v1::blob_part::Part;
use convoke_transport::{Backoff, Sent};
use indicatif::ProgressBar;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::blob::Blob;
use super::standing::{STANDS, Standing};
use crate::cli::failure::{Failure, exit, root_cause};
use crate::cli::link::Link;

/// Streams side by side: one waits for the disk of the other side while another sends.
const STREAMS: usize = 3;
/// What a stream has to send again when the connection breaks, unless one file is larger. More at a time
/// is no faster: a batch costs the coordinator two syncs, which other streams write through.
const BATCH_BYTES: u64 = 16 << 20;
const BATCH_BLOBS: usize = 1_000;
/// Digests of one question.
const QUESTION: usize = 10_000;
/// Bytes of one message; the API takes up to 1 MiB.
const CHUNK: usize = 256 << 10;
/// Messages read ahead of the connection: 2 MiB keep it busy.
const AHEAD: usize = 8;
/// A connection that takes next to nothing for so long, and answers nothing, is given up and tried again.
const STALLED: Duration = Duration::from_secs(120);
/// More bytes than the pings of a connection that stands come to in that time.
const MOVES: u64 = 4 << 10;

/// Why blobs were not sent.
#[derive(Debug)]
pub(super) enum UploadError {
    /// These files, or one of them, are not what was hashed.
    Changed(Vec<PathBuf>),
    Failed(Failure),
}

impl From<Failure> for UploadError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Which of `digests` the coordinator lacks.
pub(crate) async fn missing(
    link: &Link,
    digests: impl IntoIterator<Item = Digest>,
) -> Result<BTreeSet<Digest>, Failure> {
    let all: Vec<_> = digests.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    let mut missing = BTreeSet::new();
    for some in all.chunks(QUESTION) {
        let sha256 = some.iter().map(|digest| Bytes::copy_from_slice(&digest.0)).collect();
        let request = v1::FindMissingBlobsRequest { sha256 };
        let answer =
            link.call(request, |mut c, r| async move { c.files.find_missing_blobs(r).await }).await?;
        for digest in answer.sha256 {
            let digest = <[u8; 32]>::try_from(&digest[..]);
            let digest = digest.map_err(|_| {
                Failure::new(exit::FAILED, "COORDINATOR", "the answer names a digest that is none")
            })?;
            missing.insert(Digest(digest));
        }
    }
    Ok(missing)
}

/// Sends all of `blobs`; `bar` counts their bytes.
pub(super) async fn upload(link: &Link, blobs: Vec<Blob>, bar: &ProgressBar) -> Result<(), UploadError> {
    let mut batches = batches(blobs);
    batches.reverse();
    let queue = Mutex::new(batches);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let worker = || async {
        while let Some(batch) = next() {
            send(link, batch, bar).await?;
        }
        Ok::<_, UploadError>(())
    };
    futures::future::try_join_all((0..STREAMS).map(|_| worker())).await?;
    Ok(())
}

fn batches(blobs: Vec<Blob>) -> Vec<Vec<Blob>> {
    let mut batches = vec![Vec::new()];
    let mut bytes = 0;
    for blob in blobs {
        let full = batches.last().is_some_and(|b| !b.is_empty() && b.len() >= BATCH_BLOBS);
        if full || (bytes > 0 && bytes + blob.size > BATCH_BYTES) {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += blob.size;
        if let Some(last) = batches.last_mut() {
            last.push(blob);
        }
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

/// Sends one batch, however often that takes within the link's patience.
async fn send(link: &Link, mut batch: Vec<Blob>, bar: &ProgressBar) -> Result<(), UploadError> {
    let mut backoff = Backoff::default();
    let mut busy_since = None;
    let mut standing = Standing::default();
    while !batch.is_empty() {
        let read = Arc::new(AtomicU64::new(0));
        let moved = Moved::begin(link).await;
        let status = match attempt(link, &batch, &read, bar).await {
            Ok(()) => {
                link.answered();
                return Ok(());
            }
            Err(Attempt::Changed(path)) => return Err(UploadError::Changed(vec![path])),
            Err(Attempt::Unreadable(path, error)) => {
                return Err(Failure::file("read", &path, &error).into());
            }
            Err(Attempt::Status(status)) => *status,
        };
        match convoke_proto::reason(&status).as_deref() {
            Some("HASH_MISMATCH" | "SHORT_BODY" | "EXTRA_BYTES") => {
                let paths = batch.iter().filter_map(|blob| blob.origin.path()).map(Into::into);
                return Err(UploadError::Changed(paths.collect()));
            }
            // The link is slow, or this machine slept: no reason to say that it went away.
            Some("STALLED") if !standing.is_over(moved.any(), Instant::now()) => backoff.pause().await,
            // Others send too.
            Some("BUSY") if busy_since.get_or_insert_with(Instant::now).elapsed() < link.patience() => {
                backoff.pause().await;
            }
            Some("DISK_FULL") => return Err(disk_full(status).into()),
            _ => {
                let cause = root_cause(&status);
                link.failed(status, &mut backoff).await?;
                if standing.is_over(moved.any(), Instant::now()) {
                    return Err(stands(&cause).into());
                }
            }
        }
        bar.dec(read.load(Ordering::Relaxed));
        let before: u64 = batch.iter().map(|blob| blob.size).sum();
        let lacking = missing(link, batch.iter().map(|blob| blob.digest)).await?;
        batch.retain(|blob| lacking.contains(&blob.digest));
        let stored = before - batch.iter().map(|blob| blob.size).sum::<u64>();
        bar.inc(stored);
        if stored > 0 {
            busy_since = None;
        }
    }
    Ok(())
}

/// How much of what a try sends leaves this machine.
struct Moved {
    before: u64,
    /// `None` without a connection.
    sent: Option<Sent>,
}

impl Moved {
    async fn begin(link: &Link) -> Self {
        // Why there is none is told by the try itself.
        let sent = link.bulk().await.ok().map(|(_, sent)| sent);
        Self { before: sent.as_ref().map_or(0, Sent::bytes), sent }
    }

    fn any(&self) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.bytes() - self.before >= MOVES)
    }
}

fn stands(cause: &str) -> Failure {
    let bound = humantime::format_duration(STANDS);
    let message = format!("next to nothing of the job's files could be sent for {bound}: {cause}");
    Failure::new(exit::UNREACHABLE, "UPLOAD_STANDS", message).hint(
        "look at the way to the coordinator: other calls reach it, large packets perhaps not (MTU, a proxy, a \
         firewall); what was stored is not sent again",
    )
}

fn disk_full(status: Status) -> Failure {
    Failure::from(status).hint(
        "free space for the coordinator's data directory, or ship less (.convokeignore); what was stored \
         is not sent again",
    )
}

enum Attempt {
    Changed(PathBuf),
    Unreadable(PathBuf, io::Error),
    Status(Box<Status>),
}

impl From<Status> for Attempt {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

async fn attempt(
    link: &Link,
    batch: &[Blob],
    read: &Arc<AtomicU64>,
    bar: &ProgressBar,
) -> Result<(), Attempt> {
    let (mut client, sent) = link.bulk().await?;
    let (sender, parts) = mpsc::channel(AHEAD);
    let (blobs, counter, shown) = (batch.to_vec(), read.clone(), bar.clone());
    let feeding = tokio::task::spawn_blocking(move || feed(&blobs, &sender, &counter, &shown));
    let answer = tokio::select! {
        answer = client.upload_blobs(ReceiverStream::new(parts)) => answer,
        () = stalled(|| sent.bytes(), STALLED) => Err(Status::unavailable(format!("nothing was taken for {STALLED:?}"))),
    };
    // The call is over, so that the thread finds nobody to send to.
    let fed = feeding.await.map_err(|e| Status::internal(e.to_string()))?;
    match (fed, answer) {
        (Err(problem), _) => Err(problem),
        (Ok(()), Ok(_)) => Ok(()),
        (Ok(()), Err(status)) => Err(status.into()),
    }
}

/// Returns once `sent` has not grown by [`MOVES`] for so long.
async fn stalled(sent: impl Fn() -> u64, time: Duration) {
    loop {
        let before = sent();
        tokio::time::sleep(time).await;
        if sent() - before < MOVES {
            return;
        }
    }
}

/// Reads blobs into a stream's messages; ends early without an error where nobody takes them.
fn feed(
    blobs: &[Blob],
    parts: &mpsc::Sender<v1::BlobPart>,
    sent: &AtomicU64,
    bar: &ProgressBar,
) -> Result<(), Attempt> {
    let give = |part| parts.blocking_send(v1::BlobPart { part: Some(part) }).is_ok();
    for blob in blobs {
        let path = || blob.origin.path().unwrap_or(std::path::Path::new("")).to_owned();
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Attempt::Changed(path()),
            _ => Attempt::Unreadable(path(), error),
        };
        let mut content = blob.origin.open().map_err(unreadable)?.ok_or_else(|| Attempt::Changed(path()))?;
        let header =
            v1::BlobHeader { sha256: Bytes::copy_from_slice(&blob.digest.0), size: blob.size, offset: 0 };
        if !give(Part::Header(header)) {
            return Ok(());
        }
        let mut left = blob.size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let mut chunk = Vec::with_capacity(most);
            content.by_ref().take(most as u64).read_to_end(&mut chunk).map_err(unreadable)?;
            if chunk.is_empty() {
                return Err(Attempt::Changed(path()));
            }
            let n = chunk.len() as u64;
            if !give(Part::Data(chunk.into())) {
                return Ok(());
            }
            left -= n;
            sent.fetch_add(n, Ordering::Relaxed);
            bar.inc(n);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! Bringing blobs here: several streams, each taking batches of what is missing until nothing is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use convoke_model::Digest;
use convoke_proto::v1::blob_part::Part;
use convoke_proto::v1::{BlobPart, FetchBlobsRequest};
use convoke_transport::Backoff;
use convoke_tree::Manifest;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Streaming;
use tracing::{info, warn};

use super::dirs::Wanted;
use super::receive::{Left, Receiver, WriteError};
use super::{FetchError, Inner, Told};
use crate::blocking::blocking;
use crate::files::owner::Owner;
use crate::files::space::{Shortage, Space, bytes};
use crate::link::{Link, will_pass};

/// Streams of one fetch: enough that one always writes while another waits for the network, and few
/// beside what a coordinator serves at once.
const STREAMS: usize = 4;
/// A batch is one call. Small enough that the streams end together, large enough that calls cost
/// nothing; the list of 1,000 digests is 34 KB of message.
const BATCH_BLOBS: usize = 1_000;
const BATCH_BYTES: u64 = 32 << 20;
/// Messages that were received and are not written yet: at most 4 MiB a stream.
const AHEAD: usize = 4;
/// How long the coordinator may send nothing, and the disk may take nothing.
const STALL: Duration = Duration::from_secs(60);
/// A stream gives up after failing for so long without a byte in between: a coordinator's restart is
/// shorter, and another node may reach it better.
const PATIENCE: Duration = Duration::from_secs(60);
/// A coordinator that is busy with others lets a stream wait for so long in all: it serves some tens at a
/// time, and a large gang has hundreds.
const BUSY: Duration = Duration::from_secs(600);
/// Tries in a row that bring nothing that can be kept, bytes or not: what breaks so often will not pass.
const TRIES: usize = 20;
/// How often progress is told: each time is a commit of the coordinator's.
const PROGRESS: Duration = Duration::from_secs(2);
/// Bytes of a manifest: a million entries are about 150 MB.
const MAX_MANIFEST: u64 = 512 << 20;

/// Bytes that fetches under way will still write.
pub(super) type Pending = Arc<AtomicU64>;

/// What is left of one fetch; its bytes are pending until they are written, or it is dropped.
pub(super) struct Missing {
    /// Last one next.
    wanted: Mutex<Vec<Wanted>>,
    total: u64,
    left: AtomicU64,
    pending: Pending,
}

impl Inner {
    /// Takes the tree up: `None` if all of it is here, else what is missing, for which there is room.
    /// Blocking, under the gate.
    pub(super) fn take_up(&self, digest: Digest, manifest: &Manifest) -> Result<Option<Missing>, FetchError> {
        let io = |source| FetchError::Io { path: self.dirs.root().to_owned(), source };
        self.dirs.note(digest, manifest).map_err(io)?;
        if self.dirs.stored(digest).exists() {
            return Ok(None);
        }
        self.may_exceed.store(true, Ordering::Relaxed);
        let missing = Missing::new(self.dirs.missing(manifest), self.pending.clone());
        let needed = self.pending.load(Ordering::Relaxed);
        let shortage = || Ok(Space::at(self.dirs.root())?.shortage(needed));
        if let Some(first) = shortage().map_err(io)? {
            self.make_room(first.needed - first.free).map_err(io)?;
            if let Some(shortage) = shortage().map_err(io)? {
                return Err(FetchError::Full { path: self.dirs.root().to_owned(), shortage });
            }
        }
        Ok(Some(missing))
    }
}

impl Missing {
    fn new(mut wanted: Vec<Wanted>, pending: Pending) -> Self {
        wanted.reverse();
        let total = wanted.iter().map(|w| w.size).sum();
        pending.fetch_add(total, Ordering::Relaxed);
        Self { wanted: Mutex::new(wanted), total, left: AtomicU64::new(total), pending }
    }

    fn take_batch(&self) -> Vec<Wanted> {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut batch, mut size) = (Vec::new(), 0);
        while batch.len() < BATCH_BLOBS && (batch.is_empty() || size < BATCH_BYTES) {
            let Some(next) = wanted.pop() else { break };
            size += next.size;
            batch.push(next);
        }
        batch
    }

    fn written(&self, size: u64) {
        self.left.fetch_sub(size, Ordering::Relaxed);
        self.pending.fetch_sub(size, Ordering::Relaxed);
    }

    fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }
}

impl Drop for Missing {
    fn drop(&mut self) {
        self.pending.fetch_sub(self.left(), Ordering::Relaxed);
    }
}

/// Fetches everything that is missing.
pub(super) async fn all(
    inner: &Arc<Inner>,
    missing: Missing,
    owner: Owner,
    told: Told<'_>,
) -> Result<(), FetchError> {
    if missing.total == 0 && missing.wanted.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
        return Ok(());
    }
    let (missing, began) = (Arc::new(missing), Instant::now());
    let streams = (0..STREAMS).map(|_| stream(inner, &missing, owner));
    let mut fetching = std::pin::pin!(futures::future::try_join_all(streams));
    let mut progress = tokio::time::interval(PROGRESS);
    progress.tick().await;
    loop {
        tokio::select! {
            fetched = &mut fetching => {
                fetched?;
                info!(took = ?began.elapsed(), "{} of files fetched", bytes(missing.total));
                return Ok(());
            }
            _ = progress.tick() => told(missing.total - missing.left(), missing.total),
        }
    }
}

/// One stream: batch after batch, over any number of broken connections.
async fn stream(inner: &Arc<Inner>, missing: &Arc<Missing>, owner: Owner) -> Result<(), FetchError> {
    let mut batch = Left::new(missing.take_batch());
    let mut patience = Patience::default();
    while !batch.blobs.is_empty() {
        let before = (batch.blobs.len(), batch.offset());
        let Attempt { left, bytes, outcome } = attempt(inner, missing, batch, owner).await;
        batch = left;
        // What was kept brings the end nearer; what was thrown away does not.
        let nearer = batch.blobs.len() < before.0 || batch.offset() > before.1;
        patience.heard(bytes > 0, nearer);
        match outcome {
            Ok(()) => batch = Left::new(missing.take_batch()),
            Err(error) if patience.stands(&error) => {
                warn!("fetching files: {error}; trying again");
                patience.backoff.pause().await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How long a stream still tries.
struct Patience {
    backoff: Backoff,
    /// The last byte.
    byte: Instant,
    /// The last one that was kept.
    kept: Instant,
    tries: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self { backoff: Backoff::default(), byte: Instant::now(), kept: Instant::now(), tries: 0 }
    }
}

impl Patience {
    fn heard(&mut self, byte: bool, kept: bool) {
        if byte {
            self.byte = Instant::now();
        }
        if kept {
            *self = Self::default();
        }
    }

    /// Whether there is another try after this.
    fn stands(&mut self, error: &FetchError) -> bool {
        if is_busy(error) {
            self.byte = Instant::now();
            return self.kept.elapsed() < BUSY;
        }
        self.tries += 1;
        self.tries < TRIES && self.byte.elapsed() < PATIENCE && passes(error)
    }
}

fn is_busy(error: &FetchError) -> bool {
    matches!(error, FetchError::Status(status) if convoke_proto::reason(status).as_deref() == Some("BUSY"))
}

/// Whether the same may succeed soon.
fn passes(error: &FetchError) -> bool {
    match error {
        FetchError::Connect(_)
        | FetchError::Stalled(_)
        | FetchError::DiskStalled(_)
        | FetchError::Damaged(_) => true,
        FetchError::Status(status) => will_pass(status),
        FetchError::Malformed(_)
        | FetchError::Manifest(..)
        | FetchError::Full { .. }
        | FetchError::Io { .. }
        | FetchError::Interrupted(_) => false,
    }
}

/// What became of one call.
struct Attempt {
    /// Still missing.
    left: Left,
    /// Bytes that came.
    bytes: u64,
    outcome: Result<(), FetchError>,
}

async fn attempt(inner: &Arc<Inner>, missing: &Arc<Missing>, batch: Left, owner: Owner) -> Attempt {
    let opened = open(&inner.link, &batch.blobs, batch.offset()).await;
    let mut parts = match opened {
        Ok(parts) => parts,
        Err(error) => return Attempt { left: batch, bytes: 0, outcome: Err(error) },
    };
    let (tx, rx) = mpsc::channel(AHEAD);
    let asked = batch.blobs.clone();
    let receiver = Receiver::new(inner.dirs.clone(), batch, owner);
    let counted = missing.clone();
    let writing = blocking(move || receiver.write_all(rx, |size| counted.written(size)));
    let (received, written) = tokio::join!(pass_on(&mut parts, tx), writing);
    let (bytes, streamed) = received;
    // A thread that was lost wrote nothing that counts.
    let (left, written) = written.unwrap_or_else(|e| (Left::new(asked), Err(WriteError::Malformed(e))));
    let outcome = match written {
        Err(error) => Err(judged(inner, missing, error)),
        // Ended early, by a broken connection or without one.
        Ok(()) => streamed.and_then(|()| match left.blobs.as_slice() {
            [] => Ok(()),
            [first, ..] => Err(FetchError::Malformed(format!("it ends before blob {}", first.digest))),
        }),
    };
    Attempt { left, bytes, outcome }
}

/// Asks for a batch, without the first bytes of its first blob.
async fn open(link: &Link, batch: &[Wanted], offset: u64) -> Result<Streaming<BlobPart>, FetchError> {
    let sha256 = batch.iter().map(|wanted| wanted.digest.0.to_vec().into()).collect();
    let mut client = link.files().await?;
    let opened = timeout(STALL, client.fetch_blobs(FetchBlobsRequest { sha256, offset })).await;
    Ok(opened.map_err(|_| FetchError::Stalled(STALL.as_secs()))?.map_err(Box::new)?.into_inner())
}

/// Hands every part to the writer; returns how many bytes came.
async fn pass_on(parts: &mut Streaming<BlobPart>, tx: mpsc::Sender<Part>) -> (u64, Result<(), FetchError>) {
    let mut bytes = 0;
    loop {
        let part = match timeout(STALL, parts.message()).await {
            Err(_) => return (bytes, Err(FetchError::Stalled(STALL.as_secs()))),
            Ok(Err(status)) => return (bytes, Err(Box::new(status).into())),
            Ok(Ok(None)) => return (bytes, Ok(())),
            Ok(Ok(Some(part))) => part.part,
        };
        let Some(part) = part else { return (bytes, Err(FetchError::Malformed("an empty message".into()))) };
        if let Part::Data(data) = &part {
            bytes += data.len() as u64;
        }
        match hand_on(part, &tx, STALL).await {
            Ok(true) => {}
            Ok(false) => return (bytes, Ok(())),
            Err(error) => return (bytes, Err(error)),
        }
    }
}

/// False if the writer has ended, which knows why. A part that it does not take in time is lost, and nothing that
/// follows may be written behind it.
async fn hand_on(part: Part, tx: &mpsc::Sender<Part>, patience: Duration) -> Result<bool, FetchError> {
    let sent = timeout(patience, tx.send(part)).await;
    sent.map(|sent| sent.is_ok()).map_err(|_| FetchError::DiskStalled(patience.as_secs()))
}

fn judged(inner: &Inner, missing: &Missing, error: WriteError) -> FetchError {
    match error {
        WriteError::Damaged(digest) => FetchError::Damaged(digest),
        WriteError::Malformed(what) => FetchError::Malformed(what),
        WriteError::Io { path, source } if crate::files::space::is_full(&source) => {
            let free = Space::at(inner.dirs.root()).map_or(0, |space| space.free);
            FetchError::Full { path, shortage: Shortage { needed: missing.left(), free } }
        }
        WriteError::Io { path, source } => FetchError::Io { path, source },
    }
}

/// Fetches and reads a manifest.
pub(crate) async fn manifest(link: &Link, digest: Digest) -> Result<Manifest, FetchError> {
    let content = small(link, digest, MAX_MANIFEST).await?;
    blocking(move || Manifest::decode(&content))
        .await
        .map_err(FetchError::Interrupted)?
        .map_err(|e| FetchError::Manifest(digest, e))
}

/// A blob of at most `limit` bytes, into memory.
pub(crate) async fn small(link: &Link, digest: Digest, limit: u64) -> Result<Vec<u8>, FetchError> {
    let content = tokio::sync::Mutex::new(Vec::new());
    let attempt = || async { try_small(link, digest, limit, &mut *content.lock().await).await };
    patiently("fetching a blob", attempt).await?;
    Ok(content.into_inner())
}

/// Tries until it succeeds, as long as failing may pass.
pub(crate) async fn patiently<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> Result<T, FetchError>
where
    F: Future<Output = Result<T, FetchError>>,
{
    let (mut backoff, began) = (Backoff::default(), Instant::now());
    loop {
        match attempt().await {
            Err(error) if passes(&error) && began.elapsed() < PATIENCE => {
                warn!("{what}: {error}; trying again");
            }
            done => return done,
        }
        backoff.pause().await;
    }
}

/// Adds what comes to `content`, which an earlier try may have begun.
async fn try_small(link: &Link, digest: Digest, limit: u64, content: &mut Vec<u8>) -> Result<(), FetchError> {
    let malformed = |what: &str| FetchError::Malformed(format!("{what} of blob {digest}"));
    let mut parts = open(link, &[Wanted { digest, size: 0, mode: 0 }], content.len() as u64).await?;
    let mut size = None;
    while let Some(part) = timeout(STALL, parts.message())
        .await
        .map_err(|_| FetchError::Stalled(STALL.as_secs()))?
        .map_err(Box::new)?
    {
        match (part.part, size) {
            (Some(Part::Header(header)), None)
                if header.size <= limit && header.offset <= content.len() as u64 =>
            {
                content.truncate(usize::try_from(header.offset).unwrap_or_default());
                size = Some(header.size);
            }
            (Some(Part::Header(header)), None) => {
                return Err(malformed(&format!("{}, too much,", bytes(header.size))));
            }
            (Some(Part::Data(data)), Some(size)) if (content.len() + data.len()) as u64 <= size => {
                content.extend_from_slice(&data);
            }
            _ => return Err(malformed("a part out of place")),
        }
    }
    if Digest(Sha256::digest(&content).into()) != digest {
        content.clear();
        return Err(FetchError::Damaged(digest));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_the_disk_does_not_take_in_time_ends_the_stream() {
        let (tx, rx) = mpsc::channel(1);
        let part = || Part::Data(vec![1].into());
        assert!(hand_on(part(), &tx, STALL).await.unwrap());
        let late = hand_on(part(), &tx, Duration::ZERO).await;
        assert!(
            matches!(late, Err(FetchError::DiskStalled(0))),
            "else what follows would stand in its place"
        );
        drop(rx);
        assert!(!hand_on(part(), &tx, STALL).await.unwrap());
    }
}

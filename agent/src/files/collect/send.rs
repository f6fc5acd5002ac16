//! Files on their way home: their content as blobs, unless it is there, then the report.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use convoke_model::{Digest, ReplicaKey};
use convoke_proto::v1;
use convoke_proto::v1::blob_part::Part;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::motion::Motion;
use super::scan::Stamp;
use crate::beneath::Beneath;
use crate::link::{Link, will_pass};

/// Bytes in one message; the API allows 1 MiB.
const CHUNK: usize = 512 << 10;
/// Chunks that are read ahead: the disk and the network overlap, within 2 MiB.
const AHEAD: usize = 4;
/// How long the network may take no byte, and how long the coordinator may take to put the last blob
/// on its disk.
const STALL: Duration = Duration::from_secs(120);

/// A file that was hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ready {
    pub(super) copy: usize,
    pub(super) path: String,
    /// The mount's source.
    pub(super) mount: String,
    pub(super) on_disk: Beneath,
    pub(super) stamp: Stamp,
    pub(super) mode: u32,
    pub(super) digest: Digest,
}

/// Why files did not go home.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// The generation, or the job, is not known any more.
    #[error("{0}")]
    Over(String),
    #[error("the coordinator takes no more: {0}")]
    Full(String),
    /// Another try with all of the files would end the same way.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Interrupted(String),
}

/// Sends at most a thousand files, and reports them.
pub(super) async fn send(
    link: &Link,
    key: &ReplicaKey,
    files: &[Ready],
    motion: &Motion,
) -> Result<(), SendError> {
    let blobs: BTreeMap<Digest, &Ready> = files.iter().map(|file| (file.digest, file)).collect();
    let missing = missing(link, blobs.keys()).await?;
    if !missing.is_empty() {
        upload(
            link,
            missing.iter().filter_map(|digest| blobs.get(digest)).map(|file| (*file).clone()).collect(),
            motion.clone(),
        )
        .await?;
    }
    report(link, key, files).await
}

async fn missing(link: &Link, digests: impl Iterator<Item = &Digest>) -> Result<Vec<Digest>, SendError> {
    let sha256 = digests.map(|digest| digest.0.to_vec().into()).collect();
    let mut client = link.files().await.map_err(interrupted)?;
    let call = client.find_missing_blobs(v1::FindMissingBlobsRequest { sha256 });
    let answer = timeout(STALL, call).await.map_err(|_| silent())?.map_err(|status| judged(&status))?;
    let digest = |bytes: &Bytes| bytes.as_ref().try_into().map(Digest).map_err(interrupted);
    answer.into_inner().sha256.iter().map(digest).collect()
}

async fn upload(link: &Link, files: Vec<Ready>, motion: Motion) -> Result<(), SendError> {
    let mut client = link.files().await.map_err(interrupted)?;
    let (tx, rx) = mpsc::channel(AHEAD);
    let feeding = tokio::task::spawn_blocking(move || feed(&files, &tx, &motion));
    let mut call = std::pin::pin!(client.upload_blobs(ReceiverStream::new(rx)));
    // The call may end first, with a refusal; else the feed ends first, with the last byte.
    let answer = tokio::select! {
        answer = &mut call => answer,
        fed = feeding => {
            // A feed that failed ends the call, whose own answer may know better why.
            let problem = fed.map_err(interrupted)?.err();
            let silent = || problem.map_or_else(silent, SendError::Interrupted);
            timeout(STALL, call).await.map_err(|_| silent())?
        }
    };
    answer.map(drop).map_err(|status| judged(&status))
}

/// Reads the files into the call. Blocking.
fn feed(files: &[Ready], tx: &mpsc::Sender<v1::BlobPart>, motion: &Motion) -> Result<(), String> {
    let mut sent = 0;
    let runtime = tokio::runtime::Handle::current();
    let send = |part| {
        let sending = tx.send_timeout(v1::BlobPart { part: Some(part) }, STALL);
        runtime.block_on(sending).map_err(|_| "the network took no bytes".to_owned())
    };
    for Ready { on_disk, digest, stamp, .. } in files {
        let failed = |e: std::io::Error| format!("{on_disk}: {e}");
        let file = on_disk.open().map_err(failed)?;
        send(Part::Header(v1::BlobHeader { sha256: digest.0.to_vec().into(), size: stamp.size, offset: 0 }))?;
        // No more than was hashed, even if somebody appends to it now.
        let mut content = file.take(stamp.size);
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            content.by_ref().take(CHUNK as u64).read_to_end(&mut chunk).map_err(failed)?;
            if chunk.is_empty() {
                break;
            }
            sent += chunk.len() as u64;
            send(Part::Data(chunk.into()))?;
            motion.sent(sent);
        }
    }
    Ok(())
}

async fn report(link: &Link, key: &ReplicaKey, files: &[Ready]) -> Result<(), SendError> {
    let artifact = |file: &Ready| v1::Artifact {
        mount: file.mount.clone(),
        path: file.path.clone(),
        size: file.stamp.size,
        sha256: file.digest.0.to_vec().into(),
        mode: file.mode,
        modified_unix_ms: u64::try_from(file.stamp.modified / 1_000_000).unwrap_or_default(),
        ..Default::default()
    };
    let request = v1::ReportArtifactsRequest {
        job_id: key.job.to_string(),
        generation: key.generation.0,
        node_rank: key.node_rank.0,
        artifacts: files.iter().map(artifact).collect(),
    };
    let mut client = link.files().await.map_err(interrupted)?;
    let call = timeout(STALL, client.report_artifacts(request)).await.map_err(|_| silent())?;
    call.map(drop).map_err(|status| judged(&status))
}

fn interrupted(error: impl ToString) -> SendError {
    SendError::Interrupted(error.to_string())
}

fn silent() -> SendError {
    SendError::Interrupted("no answer from the coordinator".to_owned())
}

fn judged(status: &Status) -> SendError {
    let message = status.message().to_owned();
    match convoke_proto::reason(status).as_deref() {
        Some("STALE_GENERATION" | "UNKNOWN_JOB") => SendError::Over(message),
        // A file that changed meanwhile is hashed anew, a blob that went meanwhile is sent anew, and
        // an operator may make room.
        Some("HASH_MISMATCH" | "SHORT_BODY" | "EXTRA_BYTES" | "UNKNOWN_BLOB" | "DISK_FULL") => {
            SendError::Interrupted(message)
        }
        Some("TOO_MANY_ARTIFACTS") => SendError::Full(message),
        _ if will_pass(status) => SendError::Interrupted(message),
        Some(_) => SendError::Refused(message),
        None => SendError::Interrupted(format!("{}: {message}", status.code())),
    }
}

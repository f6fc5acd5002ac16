//! Sending one shard: a header, then the bytes of its files.

use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use convoke_model::{CheckpointRef, Shard};
use convoke_proto::v1;
use convoke_transport::is_retryable;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::beneath::Beneath;
use crate::files::collect::Motion;
use crate::host::Host;

/// Bytes in one message: half of what is allowed.
const CHUNK: usize = 512 << 10;
/// Chunks that are read ahead: the disk and the network overlap, within 2 MiB.
const AHEAD: usize = 4;
/// How long the network may take no byte, and how long the coordinator may take to put the whole
/// shard on its disk after the last one.
const STALL: Duration = Duration::from_secs(120);

/// Why a shard was not stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error("a newer generation of the job is accepted")]
    Stale,
    /// Another try would end the same way.
    #[error("the coordinator refused it: {0}")]
    Refused(String),
    #[error("{0}")]
    Interrupted(String),
}

/// Uploads a shard whose files lie in `directory`; true if the checkpoint is complete with it.
pub(super) async fn upload(
    host: &Host,
    reference: &CheckpointRef,
    shard: Shard,
    directory: &Beneath,
    motion: Motion,
) -> Result<bool, UploadError> {
    let interrupted = |e: &dyn ToString| UploadError::Interrupted(e.to_string());
    let mut client = host.link.bulk().await.map_err(|e| interrupted(&e))?;
    let (tx, rx) = mpsc::channel(AHEAD);
    let files: Vec<(Beneath, u64)> = shard.files.iter().map(|f| (directory.join(&f.path), f.size)).collect();
    let header =
        v1::CheckpointHeader { reference: Some(reference.clone().into()), shard: Some(shard.into()) };
    let part = v1::upload_checkpoint_request::Part::Header(header);
    tx.try_send(v1::UploadCheckpointRequest { part: Some(part) }).map_err(|e| interrupted(&e))?;
    let feeding = tokio::task::spawn_blocking(move || feed(&files, &tx, &motion));
    let mut call = std::pin::pin!(client.upload_checkpoint(ReceiverStream::new(rx)));
    // The call may end first, with a refusal; else the feed ends first, with the last byte.
    let answer = tokio::select! {
        answer = &mut call => answer,
        fed = feeding => {
            // A feed that failed ends the call, whose own answer may know better why.
            let problem = fed.map_err(|e| interrupted(&e))?.err();
            let silent = || UploadError::Interrupted(problem.unwrap_or_else(|| "no answer from the coordinator".to_owned()));
            timeout(STALL, call).await.map_err(|_| silent())?
        }
    };
    answer.map(|response| response.into_inner().complete).map_err(|status| judged(&status))
}

/// Reads the files into the call. Blocking.
fn feed(
    files: &[(Beneath, u64)],
    tx: &mpsc::Sender<v1::UploadCheckpointRequest>,
    motion: &Motion,
) -> Result<(), String> {
    let mut sent = 0;
    let runtime = tokio::runtime::Handle::current();
    for (path, size) in files {
        let failed = |e: &dyn ToString| format!("{path}: {}", e.to_string());
        // No more than was hashed, even if somebody appends to it now.
        let mut file = path.open().map_err(|e| failed(&e))?.take(*size);
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            file.by_ref().take(CHUNK as u64).read_to_end(&mut chunk).map_err(|e| failed(&e))?;
            if chunk.is_empty() {
                break;
            }
            sent += chunk.len() as u64;
            let part = v1::upload_checkpoint_request::Part::Data(Bytes::from(chunk));
            let sending = tx.send_timeout(v1::UploadCheckpointRequest { part: Some(part) }, STALL);
            runtime.block_on(sending).map_err(|_| "the network took no bytes".to_owned())?;
            motion.sent(sent);
        }
    }
    Ok(())
}

fn judged(status: &Status) -> UploadError {
    let message = status.message().to_owned();
    match convoke_proto::reason(status).as_deref() {
        Some("STALE_GENERATION") => UploadError::Stale,
        // The session comes back, and a file that changed is hashed anew.
        Some("NO_SESSION" | "HASH_MISMATCH" | "SHORT_BODY") => UploadError::Interrupted(message),
        Some(_) if !is_retryable(status) => UploadError::Refused(message),
        _ => UploadError::Interrupted(format!("{}: {message}", status.code())),
    }
}

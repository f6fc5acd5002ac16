//! `FindMissingBlobs`, `UploadBlobs` and `FetchBlobs`.
//!
//! An upload has a thread of its own that hashes and writes what the stream's task hands over: so
//! receiving and writing overlap, and many small blobs cost no switch of threads each.

use bytes::Bytes;
use convoke_model::Digest;
use convoke_proto::v1;
use convoke_proto::v1::blob_part::Part as WirePart;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Response, Status};

use super::outgoing::{Streaming, stream};
use super::{Context, blocking, refuse};
use crate::files::{BlobError, BlobReader, BlobWriter, Part};

/// Digests of one request.
const MAX_DIGESTS: usize = 10_000;

/// Parts that wait to be written, of a megabyte each: while one is hashed, the next are received.
const WAITING: usize = 4;

fn digest(bytes: &Bytes) -> Result<Digest, Status> {
    let wrong = || refuse::bad_request(format!("field sha256 is invalid: has {} bytes, not 32", bytes.len()));
    Ok(Digest(bytes.as_ref().try_into().map_err(|_| wrong())?))
}

fn digests(wire: &[Bytes]) -> Result<Vec<Digest>, Status> {
    if wire.len() > MAX_DIGESTS {
        let message = format!("{} digests in one request, more than {MAX_DIGESTS}; ask in parts", wire.len());
        return Err(refuse::bad_request(message));
    }
    wire.iter().map(digest).collect()
}

pub(super) async fn find_missing(
    context: &Context,
    request: v1::FindMissingBlobsRequest,
) -> Result<v1::FindMissingBlobsResponse, Status> {
    let (blobs, digests) = (context.files.blobs.clone(), digests(&request.sha256)?);
    let missing = blocking(move || blobs.missing(&digests)).await?;
    let sha256 = missing.into_iter().map(|digest| digest.0.to_vec().into()).collect();
    Ok(v1::FindMissingBlobsResponse { sha256 })
}

/// What the stream's task tells the writing thread. A channel that closes without an end is a stream
/// that broke: what is not in place is dropped.
enum Step {
    Part(Part),
    End,
}

pub(super) async fn upload(
    context: &Context,
    mut requests: tonic::Streaming<v1::BlobPart>,
) -> Result<v1::UploadBlobsResponse, Status> {
    let _turn = context.files.blobs.turn().await?;
    let (steps, received) = mpsc::channel(WAITING);
    let blobs = context.files.blobs.clone();
    let storing = tokio::spawn(blocking(move || store(&blobs, received)));
    let failed = loop {
        let step = match next(context, &mut requests).await {
            Ok(Some(part)) => Step::Part(part),
            Ok(None) => Step::End,
            Err(status) => break Some(status),
        };
        let last = matches!(step, Step::End);
        // Refused when the writing has failed, which says why itself.
        if steps.send(step).await.is_err() || last {
            break None;
        }
    };
    drop(steps);
    let stored = storing.await.map_err(|e| refuse::crashed(&e))?;
    match failed {
        Some(status) => Err(status),
        None => Ok(v1::UploadBlobsResponse { blobs: stored?.unwrap_or_default() }),
    }
}

async fn next(
    context: &Context,
    requests: &mut tonic::Streaming<v1::BlobPart>,
) -> Result<Option<Part>, Status> {
    let message = timeout(context.files.blobs.stall(), requests.message()).await;
    let Some(message) = message.map_err(|_| refuse::stalled("the upload"))?? else { return Ok(None) };
    match message.part {
        Some(WirePart::Header(header)) => {
            let digest = digest(&header.sha256)?;
            Ok(Some(Part::Header { digest, size: header.size, offset: 0 }))
        }
        Some(WirePart::Data(bytes)) => Ok(Some(Part::Data(bytes))),
        None => Err(refuse::bad_request("an empty message came in an upload")),
    }
}

/// Stores what comes; `None` if the stream broke.
fn store(blobs: &crate::files::Blobs, mut received: mpsc::Receiver<Step>) -> Result<Option<u64>, BlobError> {
    let mut writer = BlobWriter::new(blobs)?;
    // Ends with the stream's task, which waits for nothing longer than a stall.
    while let Some(step) = received.blocking_recv() {
        match step {
            Step::Part(Part::Header { digest, size, .. }) => writer.begin(digest, size)?,
            Step::Part(Part::Data(bytes)) => writer.write(&bytes)?,
            Step::End => return writer.finish().map(Some),
        }
    }
    Ok(None)
}

pub(super) async fn fetch(
    context: &Context,
    request: v1::FetchBlobsRequest,
) -> Result<Response<Streaming<v1::BlobPart>>, Status> {
    let digests = digests(&request.sha256)?;
    let turn = context.files.blobs.turn().await?;
    let blobs = context.files.blobs.clone();
    let mut reader = blocking(move || BlobReader::new(&blobs, digests, request.offset)).await?;
    Ok(stream(context, |outgoing| async move {
        let _turn = turn;
        loop {
            let (back, part) = read(reader).await?;
            reader = back;
            let part = match part {
                None => return Ok(()),
                Some(Part::Header { digest, size, offset }) => {
                    WirePart::Header(v1::BlobHeader { sha256: digest.0.to_vec().into(), size, offset })
                }
                Some(Part::Data(bytes)) => WirePart::Data(bytes),
            };
            outgoing.send(v1::BlobPart { part: Some(part) }).await?;
        }
    }))
}

async fn read(mut reader: BlobReader) -> Result<(BlobReader, Option<Part>), Status> {
    blocking(move || {
        let part = reader.next()?;
        Ok::<_, BlobError>((reader, part))
    })
    .await
}

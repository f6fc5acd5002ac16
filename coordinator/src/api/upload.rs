//! `UploadCheckpoint`: one rank's shard. Received and checked first; then, under one lock, put in
//! place and told to the core, so that directory and catalogue agree.

use std::time::Duration;

use bytes::Bytes;
use convoke_core::{Denied, Event};
use convoke_model::{CheckpointRef, CheckpointState, Shard};
use convoke_proto::v1;
use convoke_proto::v1::upload_checkpoint_request::Part;
use tokio::time::timeout;
use tonic::Status;

use super::{Context, blocking, refuse};
use crate::owner::Refused;
use crate::store::{ShardWriter, StoreError};

/// How long a sender may send nothing.
const STALL: Duration = Duration::from_secs(30);

type Requests = tonic::Streaming<v1::UploadCheckpointRequest>;

pub(super) async fn receive(
    context: &Context,
    mut requests: Requests,
) -> Result<v1::UploadCheckpointResponse, Status> {
    let (reference, shard) = header(&mut requests).await?;
    if let Some(stored) = already_stored(context, &reference, &shard).await? {
        return Ok(stored);
    }
    let (asked, rank) = (reference.clone(), shard.rank);
    let expected = context.owner.read(move |core, _| core.expects_shard(&asked, rank)).await?;
    expected.map_err(Refused::Denied)?;
    let _turn = context.store.turn().await?;
    let (store, own) = (context.store.clone(), shard.clone());
    let mut writer = blocking(move || ShardWriter::new(&store, own)).await?;
    while let Some(bytes) = data(&mut requests).await? {
        writer = blocking(move || writer.write(&bytes).map(|()| writer)).await?;
    }
    let writer = blocking(move || writer.finish().map(|()| writer)).await?;
    // A task of its own: a caller that goes away now must not leave directory and catalogue apart.
    let own = context.clone();
    let kept = tokio::spawn(async move { keep(&own, reference, shard, writer).await });
    kept.await.map_err(|e| refuse::crashed(&e))?
}

/// The first message.
async fn header(requests: &mut Requests) -> Result<(CheckpointRef, Shard), Status> {
    let Some(Part::Header(header)) = next(requests).await? else {
        return Err(refuse::bad_request("the first message of an upload must be its header"));
    };
    let reference = header.reference.ok_or_else(|| refuse::bad_request("field reference is missing"))?;
    let shard = header.shard.ok_or_else(|| refuse::bad_request("field shard is missing"))?;
    Ok((reference.try_into().map_err(refuse::invalid)?, shard.try_into().map_err(refuse::invalid)?))
}

/// The next bytes; `None` at the end.
async fn data(requests: &mut Requests) -> Result<Option<Bytes>, Status> {
    match next(requests).await? {
        None => Ok(None),
        Some(Part::Data(bytes)) => Ok(Some(bytes)),
        Some(Part::Header(_)) => Err(refuse::bad_request("a second header came in one upload")),
    }
}

async fn next(requests: &mut Requests) -> Result<Option<Part>, Status> {
    let message = timeout(STALL, requests.message()).await.map_err(|_| refuse::stalled("the upload"))??;
    match message {
        None => Ok(None),
        Some(v1::UploadCheckpointRequest { part: Some(part) }) => Ok(Some(part)),
        Some(_) => Err(refuse::bad_request("an empty message came in an upload")),
    }
}

/// The answer to a shard that was stored before, the very same; another one of the rank is refused,
/// before it could take the stored one's place.
async fn already_stored(
    context: &Context,
    reference: &CheckpointRef,
    shard: &Shard,
) -> Result<Option<v1::UploadCheckpointResponse>, Status> {
    let (reference, shard) = (reference.clone(), shard.clone());
    let stored = context.owner.read(move |core, _| {
        let Some(checkpoint) = core.checkpoint(&reference) else { return Ok(None) };
        let complete = checkpoint.state == CheckpointState::Complete;
        match checkpoint.shards.iter().find(|known| known.rank == shard.rank) {
            None => Ok(None),
            Some(known) if *known == shard => Ok(Some(v1::UploadCheckpointResponse { complete })),
            Some(_) => Err(Denied::ShardConflict { rank: shard.rank, reference }),
        }
    });
    Ok(stored.await?.map_err(Refused::Denied)?)
}

async fn keep(
    context: &Context,
    reference: CheckpointRef,
    shard: Shard,
    writer: ShardWriter,
) -> Result<v1::UploadCheckpointResponse, Status> {
    let _changing = context.store.changing().await;
    if let Some(stored) = already_stored(context, &reference, &shard).await? {
        return Ok(stored);
    }
    let (asked, rank) = (reference.clone(), shard.rank);
    let expected = context.owner.read(move |core, _| core.expects_shard(&asked, rank)).await?;
    expected.map_err(Refused::Denied)?;
    let target = reference.clone();
    blocking(move || writer.place(&target)).await?;
    let event = Event::ShardStored { reference: reference.clone(), shard: shard.clone() };
    match context.owner.decide(event).await {
        Ok(_) => {}
        Err(refused @ Refused::Denied(_)) => {
            let (store, reference) = (context.store.clone(), reference.clone());
            blocking(move || store.remove_shard(&reference, rank).map_err(StoreError::from)).await?;
            return Err(refused.into());
        }
        // It may be in the ledger all the same: the files stay, and the next start decides.
        Err(refused) => return Err(refused.into()),
    }
    Ok(already_stored(context, &reference, &shard).await?.unwrap_or_default())
}

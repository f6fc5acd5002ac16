//! Sending a checkpoint's files: to an operator, or to an agent that resumes.

use bytes::Bytes;
use convoke_model::Checkpoint;
use convoke_proto::v1;
use tonic::{Response, Status};

use super::outgoing::{Streaming, stream};
use super::{Context, blocking};
use crate::store::{CheckpointReader, Part, StoreError};

/// One message of a transfer; both services have the same three.
pub(super) enum Piece {
    Checkpoint(v1::Checkpoint),
    File(v1::FileStart),
    Data(Bytes),
}

/// Streams a complete checkpoint. A damaged file ends the stream with DATA_LOSS.
pub(super) async fn send<T: From<Piece> + Send + 'static>(
    context: &Context,
    checkpoint: Checkpoint,
) -> Result<Response<Streaming<T>>, Status> {
    let turn = context.store.turn().await?;
    let mut reader = CheckpointReader::new(&context.store, &checkpoint);
    Ok(stream(context, |outgoing| async move {
        let _turn = turn;
        outgoing.send(Piece::Checkpoint(checkpoint.into()).into()).await?;
        loop {
            let (back, part) = read(reader).await?;
            reader = back;
            let piece = match part {
                None => return Ok(()),
                Some(Part::File(rank, file)) => {
                    Piece::File(v1::FileStart { rank: rank.0, file: Some(file.into()) })
                }
                Some(Part::Data(bytes)) => Piece::Data(bytes),
            };
            outgoing.send(piece.into()).await?;
        }
    }))
}

async fn read(mut reader: CheckpointReader) -> Result<(CheckpointReader, Option<Part>), Status> {
    blocking(move || {
        let part = reader.next()?;
        Ok::<_, StoreError>((reader, part))
    })
    .await
}

impl From<Piece> for v1::PullCheckpointResponse {
    fn from(piece: Piece) -> Self {
        use v1::pull_checkpoint_response::Part;
        let part = match piece {
            Piece::Checkpoint(checkpoint) => Part::Checkpoint(checkpoint),
            Piece::File(file) => Part::File(file),
            Piece::Data(bytes) => Part::Data(bytes),
        };
        Self { part: Some(part) }
    }
}

impl From<Piece> for v1::FetchCheckpointResponse {
    fn from(piece: Piece) -> Self {
        use v1::fetch_checkpoint_response::Part;
        let part = match piece {
            Piece::Checkpoint(checkpoint) => Part::Checkpoint(checkpoint),
            Piece::File(file) => Part::File(file),
            Piece::Data(bytes) => Part::Data(bytes),
        };
        Self { part: Some(part) }
    }
}

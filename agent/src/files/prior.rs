//! What a job brought home so far.

use std::time::Duration;

use convoke_model::{Artifact, JobId};
use convoke_proto::v1;
use tokio::time::timeout;

use super::cache::FetchError;
use super::cache::fetch::patiently;
use crate::link::Link;

/// How long the coordinator may send nothing.
const STALL: Duration = Duration::from_secs(60);

/// The files that came back, in the order in which they came.
pub(super) async fn artifacts(link: &Link, job: &JobId) -> Result<Vec<Artifact>, FetchError> {
    patiently(&format!("asking for the files that {job} brought back"), || try_artifacts(link, job)).await
}

async fn try_artifacts(link: &Link, job: &JobId) -> Result<Vec<Artifact>, FetchError> {
    let stalled = |_| FetchError::Stalled(STALL.as_secs());
    let mut client = link.files().await?;
    let request = v1::StreamArtifactsRequest { job: job.to_string(), after_sequence: 0, follow: false };
    let opened = timeout(STALL, client.stream_artifacts(request)).await.map_err(stalled)?;
    let mut stream = opened.map_err(Box::new)?.into_inner();
    let mut artifacts = Vec::new();
    while let Some(message) = timeout(STALL, stream.message()).await.map_err(stalled)?.map_err(Box::new)? {
        for artifact in message.artifacts {
            // The conversion refuses paths that lead out of the mount.
            artifacts.push(artifact.try_into().map_err(|e| FetchError::Malformed(format!("{e}")))?);
        }
    }
    Ok(artifacts)
}

//! The stream of what came back from a job.

use convoke_proto::v1;
use tonic::{Response, Status, Streaming};

use crate::cli::follow::{Source, has_ended};
use crate::cli::link::Clients;

/// A job's files, in the order in which the coordinator got them.
pub(crate) struct Artifacts {
    request: v1::StreamArtifactsRequest,
}

impl Artifacts {
    pub(crate) fn of(job: &str, follow: bool) -> Self {
        Self { request: v1::StreamArtifactsRequest { job: job.to_owned(), after_sequence: 0, follow } }
    }
}

impl Source for Artifacts {
    type Response = v1::StreamArtifactsResponse;
    type Item = v1::Artifact;

    async fn open(&self, mut clients: Clients) -> Result<Response<Streaming<Self::Response>>, Status> {
        clients.files.stream_artifacts(self.request.clone()).await
    }

    fn accept(&mut self, response: Self::Response) -> Vec<v1::Artifact> {
        let mut artifacts = response.artifacts;
        artifacts.retain(|artifact| artifact.sequence > self.request.after_sequence);
        if let Some(last) = artifacts.iter().map(|artifact| artifact.sequence).max() {
            self.request.after_sequence = last;
        }
        artifacts
    }

    async fn is_over(&self, clients: Clients) -> Result<bool, Status> {
        if !self.request.follow {
            return Ok(true);
        }
        has_ended(clients, &self.request.job).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reopened_stream_goes_on_after_the_last_file_seen() {
        let mut source = Artifacts::of("j", true);
        let response = |sequences: &[u64]| v1::StreamArtifactsResponse {
            artifacts: sequences
                .iter()
                .map(|n| v1::Artifact { sequence: *n, ..Default::default() })
                .collect(),
        };
        assert_eq!(source.accept(response(&[3, 5])).len(), 2);
        assert_eq!(source.accept(response(&[5, 6])).len(), 1);
        assert_eq!(source.request.after_sequence, 6);
    }
}

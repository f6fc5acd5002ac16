//! What a scripted agent brings back from a job.

use std::fmt::Write as _;

use convoke_proto::v1;
use convoke_proto::v1::blob_part::Part;
use convoke_proto::v1::file_service_client::FileServiceClient;
use sha2::{Digest as _, Sha256};

use crate::ScriptedAgent;

impl ScriptedAgent {
    /// Says that the replica's tasks wrote these files below `mount`: path and content.
    pub async fn bring(&self, replica: &v1::DesiredReplica, mount: &str, files: &[(&str, &str)]) {
        let mut parts = Vec::new();
        let mut artifacts = Vec::new();
        for (path, content) in files {
            let sha256 = Sha256::digest(content).to_vec();
            let size = content.len() as u64;
            parts.push(Part::Header(v1::BlobHeader { sha256: sha256.clone().into(), size, offset: 0 }));
            parts.push(Part::Data(content.as_bytes().to_vec().into()));
            artifacts.push(v1::Artifact {
                mount: mount.to_owned(),
                path: (*path).to_owned(),
                size,
                sha256: sha256.into(),
                mode: 0o640,
                modified_unix_ms: 1,
                ..Default::default()
            });
        }
        let parts: Vec<_> = parts.into_iter().map(|part| v1::BlobPart { part: Some(part) }).collect();
        let mut client = FileServiceClient::new(self.channel.clone());
        client.upload_blobs(self.signed(tokio_stream::iter(parts))).await.expect("the blobs are stored");
        let report = v1::ReportArtifactsRequest {
            job_id: replica.job_id.clone(),
            generation: replica.generation,
            node_rank: replica.placement.as_ref().map_or(0, |placement| placement.node_rank),
            artifacts,
        };
        client.report_artifacts(self.signed(report)).await.expect("the artifacts are accepted");
    }

    /// Says that the replica's one task exited with 0 and that nothing of it is left.
    pub async fn finish(&self, replica: &v1::DesiredReplica) {
        let exit = v1::TaskExit { status: Some(v1::task_exit::Status::Code(0)), ..Default::default() };
        let ended = v1::observed_replica::Phase::Ended(v1::PhaseEnded {});
        self.report(replica, ended, v1::observed_task::Phase::Exited(exit)).await;
    }
}

/// A digest as JSON shows it.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

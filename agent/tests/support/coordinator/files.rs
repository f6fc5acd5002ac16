//! Blobs and artifacts, and what can go wrong with them.

use std::collections::BTreeMap;

use bytes::Bytes;
use convoke_model::Digest;
use convoke_proto::v1::blob_part::Part;
use convoke_proto::v1::file_service_server::FileService;
use convoke_proto::{refusal, v1};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Responses, Service};

/// Bytes in one message.
const CHUNK: usize = 256 << 10;

/// What is stored, what was asked for, and the faults that are ordered.
#[derive(Default)]
pub struct FileMemory {
    pub blobs: BTreeMap<Digest, Bytes>,
    pub artifacts: Vec<v1::Artifact>,
    /// Every blob that was asked for, again where it was asked for again.
    pub asked: Vec<Digest>,
    /// Every blob that was sent to its end.
    pub fetched: Vec<Digest>,
    /// Bytes of it that were sent.
    pub sent: BTreeMap<Digest, usize>,
    /// Knows nothing of offsets, as an older coordinator.
    pub no_offsets: bool,
    /// Every blob that came.
    pub uploaded: Vec<Digest>,
    /// Breaks the next streams of blobs after so many messages.
    pub cut_fetches: Vec<usize>,
    /// Streams of blobs stop after so many messages, and stay open, until it is taken back.
    pub stall_fetches: Option<usize>,
    /// Flips bits of this blob, once.
    pub damage: Option<Digest>,
    /// Refuses uploads, and reports.
    pub refuse_upload: Option<Status>,
    pub refuse_report: Option<Status>,
    /// There is no room for an upload of more bytes.
    pub room: Option<u64>,
    pub reports: u32,
    /// Refuses reports with this path in them.
    pub refuse_path: Option<String>,
}

impl FileMemory {
    /// Stores a blob as an operator would.
    pub fn put(&mut self, content: impl Into<Bytes>) -> Digest {
        let content = content.into();
        let digest = Digest(Sha256::digest(&content).into());
        self.blobs.insert(digest, content);
        digest
    }

    /// The newest version of each file that came back, by mount and path.
    pub fn back(&self) -> BTreeMap<(String, String), Bytes> {
        let file = |artifact: &v1::Artifact| {
            let content = self.blobs[&digest(&artifact.sha256)].clone();
            assert_eq!(content.len() as u64, artifact.size);
            ((artifact.mount.clone(), artifact.path.clone()), content)
        };
        self.artifacts.iter().map(file).collect()
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest(bytes.try_into().unwrap())
}

impl Service {
    /// Sends blobs, as far as no fault keeps it from that.
    async fn send_blobs(
        self,
        digests: Vec<Digest>,
        mut offset: u64,
        tx: mpsc::Sender<Result<v1::BlobPart, Status>>,
    ) -> Option<()> {
        let cut = self.heard(|m| m.files.cut_fetches.pop());
        let mut changed = self.shared.changed.subscribe();
        let mut sent = 0;
        for digest in digests {
            let (content, damage) = self.heard(|m| {
                (
                    m.files.blobs.get(&digest).cloned(),
                    m.files.damage.take_if(|damaged| *damaged == digest).is_some(),
                )
            });
            let Some(content) = content else {
                let unknown = refusal(Code::NotFound, "UNKNOWN_BLOB", format!("there is no blob {digest}"));
                tx.send(Err(unknown)).await.ok()?;
                return None;
            };
            let (size, offset) = (content.len() as u64, std::mem::take(&mut offset));
            let header = v1::BlobHeader { sha256: digest.0.to_vec().into(), size, offset };
            let content = content.slice(usize::try_from(offset).unwrap()..);
            let content = if damage { content.iter().map(|byte| byte ^ 1).collect() } else { content };
            let data = content.chunks(CHUNK).map(|chunk| Part::Data(content.slice_ref(chunk)));
            for part in [Part::Header(header)].into_iter().chain(data) {
                if cut == Some(sent) {
                    tx.send(Err(Status::unavailable("cut off"))).await.ok()?;
                    return None;
                }
                while self
                    .shared
                    .memory
                    .lock()
                    .unwrap()
                    .files
                    .stall_fetches
                    .is_some_and(|after| sent >= after)
                {
                    tokio::select! {
                        changed = changed.changed() => changed.unwrap(),
                        () = tx.closed() => return None,
                    }
                }
                if let Part::Data(data) = &part {
                    self.heard(|m| *m.files.sent.entry(digest).or_default() += data.len());
                }
                tx.send(Ok(v1::BlobPart { part: Some(part) })).await.ok()?;
                sent += 1;
            }
            self.heard(|m| m.files.fetched.push(digest));
        }
        Some(())
    }
}

#[tonic::async_trait]
impl FileService for Service {
    type FetchBlobsStream = Responses<v1::BlobPart>;
    type StreamArtifactsStream = Responses<v1::StreamArtifactsResponse>;

    async fn find_missing_blobs(
        &self,
        request: Request<v1::FindMissingBlobsRequest>,
    ) -> Result<Response<v1::FindMissingBlobsResponse>, Status> {
        let asked = request.into_inner().sha256;
        assert!(asked.len() <= 10_000);
        let missing = self.heard(|m| {
            let is_missing = |sha256: &Bytes| !m.files.blobs.contains_key(&digest(sha256));
            asked.into_iter().filter(is_missing).collect()
        });
        Ok(Response::new(v1::FindMissingBlobsResponse { sha256: missing }))
    }

    async fn upload_blobs(
        &self,
        request: Request<Streaming<v1::BlobPart>>,
    ) -> Result<Response<v1::UploadBlobsResponse>, Status> {
        self.heard(|m| m.files.refuse_upload.clone().map_or(Ok(()), Err))?;
        let mut inbound = request.into_inner();
        let (mut blobs, mut current) = (Vec::new(), None::<(v1::BlobHeader, Vec<u8>)>);
        loop {
            match inbound.message().await?.and_then(|part| part.part) {
                Some(Part::Data(data)) => current.as_mut().unwrap().1.extend_from_slice(&data),
                Some(Part::Header(header)) => blobs.extend(current.replace((header, Vec::new()))),
                None => break,
            }
        }
        blobs.extend(current);
        let (count, size) = (blobs.len() as u64, blobs.iter().map(|(header, _)| header.size).sum::<u64>());
        if self.heard(|m| m.files.room.is_some_and(|room| size > room)) {
            return Err(refusal(Code::ResourceExhausted, "DISK_FULL", "the disk is full"));
        }
        for (header, content) in blobs {
            if header.size != content.len() as u64 || Sha256::digest(&content)[..] != header.sha256 {
                return Err(refusal(Code::InvalidArgument, "HASH_MISMATCH", "not what its header says"));
            }
            self.heard(|m| {
                let digest = m.files.put(content);
                m.files.uploaded.push(digest);
            });
        }
        Ok(Response::new(v1::UploadBlobsResponse { blobs: count }))
    }

    async fn fetch_blobs(
        &self,
        request: Request<v1::FetchBlobsRequest>,
    ) -> Result<Response<Self::FetchBlobsStream>, Status> {
        assert_eq!(request.metadata().get("convoke-node").unwrap(), "n1");
        let v1::FetchBlobsRequest { sha256, offset } = request.into_inner();
        let digests: Vec<Digest> = sha256.iter().map(|sha256| digest(sha256)).collect();
        assert!(digests.len() <= 10_000);
        let no_offsets = self.heard(|m| {
            m.files.asked.extend(&digests);
            m.files.no_offsets
        });
        let (tx, rx) = mpsc::channel(1);
        tokio::spawn(self.clone().send_blobs(digests, if no_offsets { 0 } else { offset }, tx));
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn stream_artifacts(
        &self,
        _: Request<v1::StreamArtifactsRequest>,
    ) -> Result<Response<Self::StreamArtifactsStream>, Status> {
        let artifacts = self.heard(|m| m.files.artifacts.clone());
        let responses = [Ok(v1::StreamArtifactsResponse { artifacts })];
        Ok(Response::new(Box::pin(tokio_stream::iter(responses))))
    }

    async fn report_artifacts(
        &self,
        request: Request<v1::ReportArtifactsRequest>,
    ) -> Result<Response<v1::ReportArtifactsResponse>, Status> {
        let v1::ReportArtifactsRequest { generation, node_rank, artifacts, .. } = request.into_inner();
        assert!(artifacts.len() <= 1_000);
        self.heard(|m| {
            m.files.reports += 1;
            m.files.refuse_report.clone().map_or(Ok(()), Err)?;
            if artifacts.iter().any(|artifact| Some(&artifact.path) == m.files.refuse_path.as_ref()) {
                return Err(refusal(Code::InvalidArgument, "BAD_REQUEST", "not that one"));
            }
            for artifact in artifacts {
                if !m.files.blobs.contains_key(&digest(&artifact.sha256)) {
                    return Err(refusal(Code::FailedPrecondition, "UNKNOWN_BLOB", "send it first"));
                }
                let sequence = m.files.artifacts.len() as u64 + 1;
                let node = "n1".to_owned();
                m.files.artifacts.push(v1::Artifact { sequence, generation, node, node_rank, ..artifact });
            }
            Ok(Response::new(v1::ReportArtifactsResponse {}))
        })
    }

    async fn find_shared_directories(
        &self,
        _: Request<v1::FindSharedDirectoriesRequest>,
    ) -> Result<Response<v1::FindSharedDirectoriesResponse>, Status> {
        Err(Status::unimplemented("agents do not ask"))
    }
}

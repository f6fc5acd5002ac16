//! Against a file service that answers as the story says.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use convoke_proto::v1::file_service_server::{FileService, FileServiceServer};
use convoke_tree::scan::{DigestCache, Options, Progress, scan};
use tonic::{Code, Request, Response, Streaming};

use super::super::blob::Origin;
use super::*;

fn blob(byte: u8, size: u64) -> Blob {
    Blob { digest: Digest([byte; 32]), size, origin: Origin::Memory(Bytes::from(vec![byte; 4])) }
}

#[test]
fn batches_are_bounded_in_number_and_bytes_and_lose_nothing() {
    let sizes = |batches: Vec<Vec<Blob>>| batches.iter().map(Vec::len).collect::<Vec<_>>();
    assert!(batches(Vec::new()).is_empty());
    assert_eq!(sizes(batches((0..5).map(|n| blob(n, BATCH_BYTES / 2)).collect())), [2, 2, 1]);
    assert_eq!(sizes(batches(vec![blob(0, 1), blob(1, 3 * BATCH_BYTES), blob(2, 1)])), [1, 1, 1]);
    assert_eq!(sizes(batches(vec![blob(0, 0); BATCH_BLOBS + 1])), [BATCH_BLOBS, 1]);
}

#[test]
fn a_file_that_changed_since_it_was_hashed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    std::fs::write(&path, "one").unwrap();
    let options = Options { project: dir.path(), limit: 100 };
    let scanned = scan(dir.path(), &options, &mut DigestCache::default(), &Progress::default()).unwrap();
    let (digest, source) = scanned.files.into_iter().next().unwrap();
    let blob = Blob { digest, size: 3, origin: Origin::Scanned(source) };
    let (sender, mut parts) = mpsc::channel(AHEAD);
    let feed = || feed(std::slice::from_ref(&blob), &sender, &AtomicU64::new(0), &ProgressBar::hidden());
    assert!(feed().is_ok());
    assert!(matches!(parts.try_recv().unwrap().part, Some(Part::Header(h)) if h.size == 3));
    assert!(matches!(parts.try_recv().unwrap().part, Some(Part::Data(d)) if d == "one"));
    std::fs::write(&path, "other").unwrap();
    assert!(matches!(feed(), Err(Attempt::Changed(changed)) if changed.ends_with("a")));
}

#[tokio::test]
async fn a_connection_that_moves_slowly_is_not_stalled_and_one_that_only_answers_pings_is() {
    let looks = AtomicU64::new(0);
    // A hundred times what is little, and from then on what pings come to.
    let sent = || {
        let look = looks.fetch_add(1, Ordering::Relaxed);
        MOVES * look.min(200) + 17 * look.saturating_sub(200)
    };
    stalled(sent, Duration::from_nanos(1)).await;
    let looks = looks.into_inner();
    assert!((201..=204).contains(&looks), "{looks}");
}

/// Keeps what comes; the first uploads end as told.
#[derive(Clone, Default)]
struct Fake(Arc<State>);

#[derive(Default)]
struct State {
    stored: Mutex<BTreeSet<Vec<u8>>>,
    /// Headers of all uploads.
    sent: Mutex<Vec<Vec<u8>>>,
    refusals: Mutex<Vec<Status>>,
}

#[tonic::async_trait]
impl FileService for Fake {
    type FetchBlobsStream = tokio_stream::Empty<Result<v1::BlobPart, Status>>;
    type StreamArtifactsStream = tokio_stream::Empty<Result<v1::StreamArtifactsResponse, Status>>;

    async fn find_missing_blobs(
        &self,
        request: Request<v1::FindMissingBlobsRequest>,
    ) -> Result<Response<v1::FindMissingBlobsResponse>, Status> {
        let mut sha256 = request.into_inner().sha256;
        sha256.retain(|digest| !self.0.stored.lock().unwrap().contains(&digest[..]));
        Ok(Response::new(v1::FindMissingBlobsResponse { sha256 }))
    }

    /// Of an upload that is to be refused, the first blob is stored all the same.
    async fn upload_blobs(
        &self,
        request: Request<Streaming<v1::BlobPart>>,
    ) -> Result<Response<v1::UploadBlobsResponse>, Status> {
        let mut parts = request.into_inner();
        let mut digests = Vec::new();
        while let Some(part) = parts.message().await? {
            if let Some(Part::Header(header)) = part.part {
                digests.push(header.sha256.to_vec());
            }
        }
        self.0.sent.lock().unwrap().extend(digests.clone());
        let refusal = self.0.refusals.lock().unwrap().pop();
        let kept = if refusal.is_some() { 1 } else { digests.len() };
        self.0.stored.lock().unwrap().extend(digests.into_iter().take(kept));
        match refusal {
            Some(status) => Err(status),
            None => Ok(Response::new(v1::UploadBlobsResponse::default())),
        }
    }

    async fn fetch_blobs(
        &self,
        _: Request<v1::FetchBlobsRequest>,
    ) -> Result<Response<Self::FetchBlobsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn stream_artifacts(
        &self,
        _: Request<v1::StreamArtifactsRequest>,
    ) -> Result<Response<Self::StreamArtifactsStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn report_artifacts(
        &self,
        _: Request<v1::ReportArtifactsRequest>,
    ) -> Result<Response<v1::ReportArtifactsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn find_shared_directories(
        &self,
        _: Request<v1::FindSharedDirectoriesRequest>,
    ) -> Result<Response<v1::FindSharedDirectoriesResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Uploads three blobs to a service whose first uploads are refused so, and says which digests were sent.
async fn uploaded(refusals: Vec<Status>) -> (Result<(), UploadError>, Vec<u8>, u64) {
    let fake = Fake(Arc::new(State { refusals: Mutex::new(refusals), ..State::default() }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (_end, shutdown) = convoke_transport::shutdown();
    let routes = tonic::service::Routes::new(FileServiceServer::new(fake.clone()));
    let server = tokio::spawn(convoke_transport::serve(listener, routes, shutdown));
    let link = Link::connect(&url, Duration::from_secs(60), Box::new(|_| {})).await.unwrap();
    let bar = ProgressBar::hidden();
    let result = upload(&link, (1..=3).map(|n| blob(n, 4)).collect(), &bar).await;
    server.abort();
    let sent = fake.0.sent.lock().unwrap().iter().map(|digest| digest[0]).collect();
    (result, sent, bar.position())
}

fn refusal(code: Code, reason: &'static str) -> Status {
    convoke_proto::refusal(code, reason, "as the story has it")
}

#[tokio::test]
async fn after_a_broken_stream_only_what_was_not_stored_is_sent() {
    let (result, sent, bytes) = uploaded(vec![Status::unknown("h2 protocol error")]).await;
    result.unwrap();
    assert_eq!((sent, bytes), (vec![1, 2, 3, 2, 3], 12));
}

#[tokio::test]
async fn a_busy_coordinator_is_asked_again() {
    let busy = refusal(Code::Unavailable, "BUSY");
    let (result, sent, bytes) = uploaded(vec![refusal(Code::DeadlineExceeded, "STALLED"), busy]).await;
    result.unwrap();
    assert_eq!((sent, bytes), (vec![1, 2, 3, 2, 3, 3], 12));
}

#[tokio::test]
async fn a_full_disk_is_said_with_what_to_do_and_a_wrong_hash_is_a_file_that_changed() {
    let (full, ..) = uploaded(vec![refusal(Code::ResourceExhausted, "DISK_FULL")]).await;
    let Err(UploadError::Failed(failure)) = full else { panic!("{full:?}") };
    assert!(failure.hint.is_some_and(|hint| hint.contains(".convokeignore")));
    let (wrong, ..) = uploaded(vec![refusal(Code::InvalidArgument, "HASH_MISMATCH")]).await;
    assert!(matches!(wrong, Err(UploadError::Changed(_))));
}

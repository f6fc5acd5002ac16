//! Blobs: what is stored, what is refused, and what comes back.

use std::time::Duration;

use bytes::Bytes;
use convoke_proto::v1;
use convoke_proto::v1::blob_part::Part;
use convoke_proto::v1::file_service_client::FileServiceClient;
use sha2::{Digest as _, Sha256};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::coordinator::{Coordinator, reason, soon};

pub(crate) fn sha256(content: &[u8]) -> Bytes {
    Sha256::digest(content).to_vec().into()
}

pub(crate) fn header(content: &[u8]) -> v1::BlobPart {
    let header = v1::BlobHeader { sha256: sha256(content), size: content.len() as u64, offset: 0 };
    v1::BlobPart { part: Some(Part::Header(header)) }
}

pub(crate) fn data(bytes: &[u8]) -> v1::BlobPart {
    v1::BlobPart { part: Some(Part::Data(Bytes::copy_from_slice(bytes))) }
}

pub(crate) async fn send(channel: &Channel, parts: Vec<v1::BlobPart>) -> Result<u64, Status> {
    let mut files = FileServiceClient::new(channel.clone());
    let stored = soon("an upload", files.upload_blobs(tokio_stream::iter(parts))).await?;
    Ok(stored.into_inner().blobs)
}

/// Stores these, in one stream.
pub(crate) async fn store(channel: &Channel, contents: &[&[u8]]) -> Result<u64, Status> {
    let parts = contents.iter().flat_map(|content| {
        std::iter::once(header(content)).chain(content.chunks(5).map(data).collect::<Vec<_>>())
    });
    send(channel, parts.collect()).await
}

pub(crate) async fn missing(channel: &Channel, contents: &[&[u8]]) -> Vec<Bytes> {
    let request = v1::FindMissingBlobsRequest { sha256: contents.iter().map(|c| sha256(c)).collect() };
    FileServiceClient::new(channel.clone()).find_missing_blobs(request).await.unwrap().into_inner().sha256
}

pub(crate) async fn fetch(channel: &Channel, contents: &[&[u8]]) -> Result<Vec<Vec<u8>>, Status> {
    fetch_from(channel, contents, 0).await
}

/// Without the first bytes of the first, which the coordinator must say.
async fn fetch_from(channel: &Channel, contents: &[&[u8]], offset: u64) -> Result<Vec<Vec<u8>>, Status> {
    let request = v1::FetchBlobsRequest { sha256: contents.iter().map(|c| sha256(c)).collect(), offset };
    let mut parts = FileServiceClient::new(channel.clone()).fetch_blobs(request).await?.into_inner();
    let mut found: Vec<Vec<u8>> = Vec::new();
    while let Some(message) = soon("a part", parts.message()).await? {
        match message.part.unwrap() {
            Part::Header(header) => {
                assert_eq!(header.sha256, sha256(contents[found.len()]));
                assert_eq!(header.size, contents[found.len()].len() as u64);
                assert_eq!(header.offset, if found.is_empty() { offset } else { 0 });
                found.push(Vec::new());
            }
            Part::Data(bytes) => found.last_mut().unwrap().extend_from_slice(&bytes),
        }
    }
    Ok(found)
}

const BLOBS: [&[u8]; 3] = [b"a file of several chunks", b"", b"another"];

/// Where the coordinator keeps this content.
pub(crate) fn path_of(dir: &std::path::Path, content: &[u8]) -> std::path::PathBuf {
    let name = hex::encode(sha256(content));
    dir.join("data/blobs").join(&name[..2]).join(&name[2..])
}

/// Nothing that was half received is left.
pub(crate) fn nothing_half(dir: &std::path::Path) -> bool {
    std::fs::read_dir(dir.join("data/blobs/.tmp")).unwrap().next().is_none()
}

#[tokio::test]
async fn what_is_missing_is_sent_once_and_comes_back_in_the_order_that_is_asked_for() {
    let coordinator = Coordinator::start().await;
    let channel = &coordinator.channel;
    assert_eq!(missing(channel, &BLOBS).await, BLOBS.map(sha256));
    assert_eq!(store(channel, &BLOBS).await.unwrap(), 3);
    assert_eq!(store(channel, &BLOBS[..1]).await.unwrap(), 1);
    assert_eq!(missing(channel, &[BLOBS[0], b"not there"]).await, [sha256(b"not there")]);
    let asked = [BLOBS[2], BLOBS[0], BLOBS[1], BLOBS[0]];
    assert_eq!(fetch(channel, &asked).await.unwrap(), asked);
    let unknown = fetch(channel, &[BLOBS[0], b"not there"]).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(reason(Err::<(), _>(unknown)), "UNKNOWN_BLOB");
    assert_eq!(store(channel, &[]).await.unwrap(), 0);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_blob_goes_on_where_it_stopped_and_those_after_it_come_whole() {
    let coordinator = Coordinator::start().await;
    let channel = &coordinator.channel;
    store(channel, &BLOBS).await.unwrap();
    let rest = fetch_from(channel, &BLOBS, 7).await.unwrap();
    assert_eq!(rest, [&BLOBS[0][7..], BLOBS[1], BLOBS[2]]);
    let size = BLOBS[0].len() as u64;
    assert_eq!(fetch_from(channel, &BLOBS[..1], size).await.unwrap(), [b""]);
    assert_eq!(reason(fetch_from(channel, &BLOBS[..1], size + 1).await), "INVALID_MESSAGE");
    coordinator.stop().await;
}

#[tokio::test]
async fn a_large_blob_survives_its_way_there_and_back() {
    let coordinator = Coordinator::start().await;
    let content: Vec<u8> = (0..9_000_000u32).map(|n| n.to_le_bytes()[usize::from(n % 3 == 0)]).collect();
    let parts = std::iter::once(header(&content)).chain(content.chunks(1 << 20).map(data));
    assert_eq!(send(&coordinator.channel, parts.collect()).await.unwrap(), 1);
    assert!(fetch(&coordinator.channel, &[&content]).await.unwrap() == [content]);
    coordinator.stop().await;
}

#[tokio::test]
async fn wrong_short_and_extra_bytes_are_refused_by_name_and_the_blobs_before_them_need_not_stay() {
    let coordinator = Coordinator::start().await;
    let channel = &coordinator.channel;
    let first = || [header(b"good"), data(b"good")];
    let cases: [(Vec<v1::BlobPart>, &str); 6] = [
        (vec![header(b"hello"), data(b"hellO")], "HASH_MISMATCH"),
        (vec![header(b"hello"), data(b"hell")], "SHORT_BODY"),
        (vec![header(b"hello"), data(b"hell"), header(b"next"), data(b"next")], "SHORT_BODY"),
        (vec![header(b"hello"), data(b"hello!")], "EXTRA_BYTES"),
        (vec![header(b"hello"), data(b"hello"), data(b"!")], "EXTRA_BYTES"),
        (vec![v1::BlobPart { part: None }], "INVALID_MESSAGE"),
    ];
    for (parts, expected) in cases {
        let sent = first().into_iter().chain(parts).collect();
        assert_eq!(reason(send(channel, sent).await), expected);
        assert_eq!(missing(channel, &[b"hello", b"next"]).await.len(), 2);
        assert!(nothing_half(coordinator.dir.path()));
    }
    assert_eq!(reason(send(channel, vec![data(b"headless")]).await), "EXTRA_BYTES");
    let short_name = v1::BlobHeader { sha256: Bytes::from_static(b"abc"), size: 1, offset: 0 };
    let short_name = v1::BlobPart { part: Some(Part::Header(short_name)) };
    assert_eq!(reason(send(channel, vec![short_name]).await), "INVALID_MESSAGE");
    let too_many = v1::FindMissingBlobsRequest { sha256: vec![sha256(b"x"); 10_001] };
    let mut files = FileServiceClient::new(channel.clone());
    assert_eq!(reason(files.find_missing_blobs(too_many).await), "INVALID_MESSAGE");
    coordinator.stop().await;
}

#[tokio::test]
async fn a_sender_that_stalls_is_cut_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start_in(dir, |o| o.blobs.stall = Duration::from_millis(200)).await;
    let (parts, sent) = tokio::sync::mpsc::channel(4);
    parts.send(header(b"hello")).await.unwrap();
    parts.send(data(b"hel")).await.unwrap();
    let mut files = FileServiceClient::new(coordinator.channel.clone());
    let upload = files.upload_blobs(tokio_stream::wrappers::ReceiverStream::new(sent));
    assert_eq!(reason(soon("a refusal", upload).await), "STALLED");
    drop(parts);
    assert!(nothing_half(coordinator.dir.path()));
    coordinator.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_leaves_nothing() {
    let coordinator = Coordinator::start().await;
    let (parts, sent) = tokio::sync::mpsc::channel(4);
    parts.send(header(b"hello")).await.unwrap();
    parts.send(data(b"hel")).await.unwrap();
    let mut files = FileServiceClient::new(coordinator.channel.clone());
    let stream = tokio_stream::wrappers::ReceiverStream::new(sent);
    let upload = tokio::spawn(async move { files.upload_blobs(stream).await });
    let dir = coordinator.dir.path();
    crate::coordinator::eventually("the begin", async || (!nothing_half(dir)).then_some(())).await;
    upload.abort();
    drop(parts);
    crate::coordinator::eventually("tidiness", async || nothing_half(dir).then_some(())).await;
    coordinator.stop().await;
}

#[tokio::test]
async fn blobs_do_not_take_the_last_of_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start_in(dir, |o| {
        (o.blobs.reserve_bytes, o.blobs.reserve_percent) = (u64::MAX, 100);
    })
    .await;
    let status = store(&coordinator.channel, &BLOBS).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(reason(Err::<(), _>(status)), "DISK_FULL");
    assert!(nothing_half(coordinator.dir.path()));
    // The coordinator's own records have the space that blobs are refused.
    coordinator.submit("a").await;
    coordinator.stop().await;
}

#[tokio::test]
async fn a_blob_that_was_damaged_on_disk_ends_the_transfer_by_its_name_and_is_missing_from_then_on() {
    let coordinator = Coordinator::start().await;
    store(&coordinator.channel, &BLOBS).await.unwrap();
    std::fs::write(path_of(coordinator.dir.path(), BLOBS[2]), "anothes").unwrap();
    let status = fetch(&coordinator.channel, &BLOBS).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    assert!(status.message().contains(&hex::encode(sha256(BLOBS[2]))), "{status:?}");
    assert_eq!(reason(Err::<(), _>(status)), "BLOB_DAMAGED");
    assert_eq!(missing(&coordinator.channel, &BLOBS).await, [sha256(BLOBS[2])]);
    store(&coordinator.channel, &BLOBS[2..]).await.unwrap();
    assert_eq!(fetch(&coordinator.channel, &BLOBS).await.unwrap(), BLOBS);
    coordinator.stop().await;
}

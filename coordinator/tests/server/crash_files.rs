//! kill -9 of the real process while files travel.

use std::path::Path;

use convoke_proto::v1;
use convoke_proto::v1::file_service_client::FileServiceClient;
use tonic::transport::Channel;

use crate::agent::Agent;
use crate::artifacts::artifact;
use crate::coordinator::{eventually, soon, submit};
use crate::crash::start;
use crate::files::{data, fetch, header, nothing_half, sha256, store};

/// Everything in place is what its name says.
fn all_whole(dir: &Path) {
    for prefix in std::fs::read_dir(dir.join("data/blobs")).unwrap() {
        let prefix = prefix.unwrap();
        if prefix.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        for blob in std::fs::read_dir(prefix.path()).unwrap() {
            let blob = blob.unwrap();
            let name =
                format!("{}{}", prefix.file_name().to_string_lossy(), blob.file_name().to_string_lossy());
            assert_eq!(hex::encode(sha256(&std::fs::read(blob.path()).unwrap())), name);
        }
    }
}

fn content(n: usize) -> Vec<u8> {
    format!("file {n} ").repeat(1 + n % 500).into_bytes()
}

async fn listed(channel: &Channel) -> Vec<(u64, String)> {
    let request = v1::StreamArtifactsRequest { job: "a".to_owned(), ..Default::default() };
    let mut stream =
        FileServiceClient::new(channel.clone()).stream_artifacts(request).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(message) = soon("artifacts", stream.message()).await.unwrap() {
        found.extend(message.artifacts.into_iter().map(|artifact| (artifact.sequence, artifact.path)));
    }
    found
}

#[tokio::test]
async fn blobs_and_artifacts_that_were_acknowledged_survive_a_kill_9_whenever_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    let mut known: Vec<Vec<u8>> = Vec::new();
    let mut submitted = None;
    // Each kill hits another step of a call: nothing waits for a call to end.
    for until in [1, 3, 10, 30] {
        let (process, channel) = start(dir.path()).await;
        all_whole(dir.path());
        assert!(nothing_half(dir.path()));
        let mut agent = Agent::connect(channel.clone(), "n1").await;
        let job = match submitted {
            Some(job) => job,
            None => {
                let job = submit(channel.clone(), "a").await.id;
                agent.run().await;
                job
            }
        };
        let (told, mut acknowledged) = tokio::sync::mpsc::channel(64);
        let (own, first) = (job.clone(), known.len());
        let sender = tokio::spawn(async move {
            for n in first.. {
                let content = content(n);
                if store(&channel, &[&content, b"of all"]).await.is_err() {
                    return;
                }
                let artifact = artifact(&format!("file-{n}"), &content);
                if agent.report_artifacts(&own, 1, vec![artifact]).await.is_err() {
                    return;
                }
                let _ = told.send(content).await;
            }
        });
        for _ in 0..until {
            known.push(soon("an answer", acknowledged.recv()).await.unwrap());
        }
        drop(process);
        while let Some(content) = soon("the rest", acknowledged.recv()).await {
            known.push(content);
        }
        sender.await.unwrap();
        submitted = Some(job);
    }
    let (_process, channel) = start(dir.path()).await;
    all_whole(dir.path());
    let contents: Vec<&[u8]> = known.iter().map(Vec::as_slice).collect();
    assert!(fetch(&channel, &contents).await.unwrap() == known);
    let listed = listed(&channel).await;
    for n in 0..known.len() {
        assert!(listed.iter().any(|(_, path)| *path == format!("file-{n}")), "{n} is lost of {listed:?}");
    }
    assert!(listed.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

#[tokio::test]
async fn a_kill_9_in_the_middle_of_a_blob_leaves_nothing_of_it_after_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let (process, channel) = start(dir.path()).await;
    let (parts, sent) = tokio::sync::mpsc::channel(8);
    // The first blob is whole, but not acknowledged; the second is half there.
    for part in [header(b"whole"), data(b"whole"), header(b"half"), data(b"ha")] {
        parts.send(part).await.unwrap();
    }
    let mut files = FileServiceClient::new(channel.clone());
    let stream = tokio_stream::wrappers::ReceiverStream::new(sent);
    let upload = tokio::spawn(async move { files.upload_blobs(stream).await });
    eventually("the half", async || {
        let dirs = std::fs::read_dir(dir.path().join("data/blobs/.tmp")).unwrap();
        let files = dirs.flat_map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap());
        let sizes: Vec<u64> = files.map(|file| file.unwrap().metadata().unwrap().len()).collect();
        sizes.contains(&2).then_some(())
    })
    .await;
    drop(process);
    assert!(soon("the end of the call", upload).await.unwrap().is_err());
    assert!(!nothing_half(dir.path()));

    let (_process, channel) = start(dir.path()).await;
    assert!(nothing_half(dir.path()));
    all_whole(dir.path());
    store(&channel, &[b"half"]).await.unwrap();
    assert_eq!(fetch(&channel, &[b"half"]).await.unwrap(), [b"half"]);
}

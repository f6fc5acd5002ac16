use convoke_proto::v1;
use convoke_proto::v1::{fetch_checkpoint_response, pull_checkpoint_response};
use tonic::Code;

use crate::agent::{running, shard};
use crate::coordinator::{Coordinator, reason, soon};

const FILES: [(&str, &str); 3] = [("model", "weights"), ("empty", ""), ("sub/optimiser", "state of it")];

async fn list(coordinator: &Coordinator) -> Vec<v1::Checkpoint> {
    let request = v1::ListCheckpointsRequest { job: "a".to_owned() };
    coordinator.checkpoints().list_checkpoints(request).await.unwrap().into_inner().checkpoints
}

async fn pull(coordinator: &Coordinator, step: Option<u64>) -> Result<Vec<(String, String)>, tonic::Status> {
    let request = v1::PullCheckpointRequest { job: "a".to_owned(), step };
    let mut parts = coordinator.checkpoints().pull_checkpoint(request).await?.into_inner();
    let mut files: Vec<(String, String)> = Vec::new();
    while let Some(message) = soon("a part", parts.message()).await? {
        match message.part.unwrap() {
            pull_checkpoint_response::Part::Checkpoint(_) => assert!(files.is_empty()),
            pull_checkpoint_response::Part::File(start) => {
                files.push((start.file.unwrap().path, String::new()))
            }
            pull_checkpoint_response::Part::Data(bytes) => {
                files.last_mut().unwrap().1.push_str(std::str::from_utf8(&bytes).unwrap());
            }
        }
    }
    Ok(files)
}

fn expected() -> Vec<(String, String)> {
    FILES.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect()
}

#[tokio::test]
async fn a_stored_checkpoint_comes_back_to_operators_and_to_agents() {
    let (coordinator, agent, job) = running().await;
    let (header, body) = shard(&job, 1, 10, &FILES);
    assert!(agent.upload(header.clone(), &body).await.unwrap().complete);
    assert_eq!(pull(&coordinator, None).await.unwrap(), expected());
    assert_eq!(pull(&coordinator, Some(10)).await.unwrap(), expected());
    let fetch = agent.call(v1::FetchCheckpointRequest { reference: header.reference });
    let mut parts = agent.calls.clone().fetch_checkpoint(fetch).await.unwrap().into_inner();
    let first = soon("a part", parts.message()).await.unwrap().unwrap().part.unwrap();
    assert!(matches!(first, fetch_checkpoint_response::Part::Checkpoint(c) if c.bytes == 18));
    assert_eq!(coordinator.job("a").await.latest_checkpoint.unwrap().step, 10);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_wrong_hash_a_short_body_and_extra_bytes_store_nothing() {
    let (coordinator, agent, job) = running().await;
    let (header, body) = shard(&job, 1, 10, &FILES);
    let mut wrong = body.clone();
    wrong[0] ^= 1;
    assert_eq!(reason(agent.upload(header.clone(), &wrong).await), "HASH_MISMATCH");
    assert_eq!(reason(agent.upload(header.clone(), &body[..9]).await), "SHORT_BODY");
    let long = [body.as_slice(), b"!"].concat();
    assert_eq!(reason(agent.upload(header.clone(), &long).await), "EXTRA_BYTES");
    assert!(list(&coordinator).await.is_empty());
    assert!(agent.upload(header, &body).await.unwrap().complete);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_path_that_leads_out_of_the_checkpoint_is_refused() {
    let (coordinator, agent, job) = running().await;
    for path in ["../../evil", "/etc/evil", "a/../../evil", "a//b", ""] {
        let (header, body) = shard(&job, 1, 10, &[(path, "x")]);
        assert_eq!(reason(agent.upload(header, &body).await), "BAD_PATH", "{path:?}");
    }
    let (twice, body) = shard(&job, 1, 10, &[("a", "x"), ("a", "x")]);
    assert_eq!(reason(agent.upload(twice, &body).await), "BAD_PATH");
    let (below, body) = shard(&job, 1, 10, &[("a", "x"), ("a/b", "x")]);
    assert_eq!(reason(agent.upload(below, &body).await), "BAD_PATH");
    coordinator.stop().await;
}

#[tokio::test]
async fn a_stale_generation_stores_nothing() {
    let (coordinator, mut agent, job) = running().await;
    let (early, body) = shard(&job, 9, 10, &FILES);
    assert_eq!(reason(agent.upload(early, &body).await), "STALE_GENERATION");
    agent.end(1).await;
    let (late, body) = shard(&job, 1, 10, &FILES);
    assert_eq!(reason(agent.upload(late, &body).await), "STALE_GENERATION");
    assert!(list(&coordinator).await.is_empty());
    coordinator.stop().await;
}

#[tokio::test]
async fn the_same_shard_again_is_accepted_and_another_one_is_refused() {
    let (coordinator, agent, job) = running().await;
    let (header, body) = shard(&job, 1, 10, &FILES);
    agent.upload(header.clone(), &body).await.unwrap();
    assert!(agent.upload(header, &body).await.unwrap().complete);
    let (other, other_body) = shard(&job, 1, 10, &[("model", "others")]);
    assert_eq!(reason(agent.upload(other, &other_body).await), "SHARD_CONFLICT");
    assert_eq!(pull(&coordinator, None).await.unwrap(), expected());
    coordinator.stop().await;
}

#[tokio::test]
async fn an_upload_without_a_header_and_a_checkpoint_that_is_not_there_are_refused() {
    let (coordinator, agent, job) = running().await;
    let data = v1::upload_checkpoint_request::Part::Data(b"x".as_slice().into());
    let call = agent.call(tokio_stream::iter(vec![v1::UploadCheckpointRequest { part: Some(data) }]));
    assert_eq!(reason(agent.calls.clone().upload_checkpoint(call).await), "INVALID_MESSAGE");
    assert_eq!(reason(pull(&coordinator, Some(5)).await), "UNKNOWN_CHECKPOINT");
    let reference = Some(v1::CheckpointRef { job_id: job, generation: 1, step: 5 });
    let fetch = agent.call(v1::FetchCheckpointRequest { reference });
    assert_eq!(reason(agent.calls.clone().fetch_checkpoint(fetch).await), "UNKNOWN_CHECKPOINT");
    coordinator.stop().await;
}

#[tokio::test]
async fn only_the_newest_are_kept_also_on_disk() {
    let (coordinator, agent, job) = running().await;
    for step in 1..=5 {
        let (header, body) = shard(&job, 1, step, &FILES);
        agent.upload(header, &body).await.unwrap();
    }
    let steps: Vec<_> = list(&coordinator).await.into_iter().map(|c| c.reference.unwrap().step).collect();
    assert_eq!(steps, [5, 4, 3]);
    let dir = coordinator.dir.path().join("data/checkpoints").join(&job);
    crate::coordinator::eventually("the deletion", async || {
        (std::fs::read_dir(&dir).unwrap().count() == 3).then_some(())
    })
    .await;
    coordinator.stop().await;
}

#[tokio::test]
async fn a_file_that_was_damaged_on_disk_ends_the_transfer_with_data_loss_and_its_name() {
    let (coordinator, agent, job) = running().await;
    let (header, body) = shard(&job, 1, 10, &FILES);
    agent.upload(header, &body).await.unwrap();
    let file = coordinator.dir.path().join("data/checkpoints").join(&job).join("1-10/rank-0/model");
    std::fs::write(file, "weightz").unwrap();
    let status = pull(&coordinator, None).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    assert!(status.message().contains("\"model\""), "{status:?}");
    coordinator.stop().await;
}

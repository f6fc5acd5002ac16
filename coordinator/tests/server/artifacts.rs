//! Files that came back.

use std::time::Duration;

use convoke_coordinator::serve;
use convoke_proto::v1;
use convoke_proto::v1::JobState;
use tonic::{Code, Status, Streaming};

use crate::agent::{self, Agent};
use crate::coordinator::{Coordinator, eventually, options, reason, soon, submission};
use crate::files::{sha256, store};

pub(crate) fn artifact(path: &str, content: &[u8]) -> v1::Artifact {
    v1::Artifact {
        mount: "./out".to_owned(),
        path: path.to_owned(),
        size: content.len() as u64,
        sha256: sha256(content),
        mode: 0o644,
        modified_unix_ms: 1,
        ..Default::default()
    }
}

async fn running() -> (Coordinator, Agent, String) {
    let (coordinator, agent, job) = agent::running().await;
    store(&coordinator.channel, &[b"one", b"two", b"three"]).await.unwrap();
    (coordinator, agent, job)
}

async fn follow(coordinator: &Coordinator, after: u64, follow: bool) -> Artifacts {
    let request = v1::StreamArtifactsRequest { job: "a".to_owned(), after_sequence: after, follow };
    Artifacts(coordinator.files().stream_artifacts(request).await.unwrap().into_inner())
}

struct Artifacts(Streaming<v1::StreamArtifactsResponse>);

impl Artifacts {
    /// The next ones, as position, path and content; none at the end.
    async fn next(&mut self) -> Vec<(u64, String, bytes::Bytes)> {
        let message = soon("artifacts", self.0.message()).await.unwrap();
        let artifacts = message.map(|m| m.artifacts).unwrap_or_default();
        artifacts.into_iter().map(|a| (a.sequence, a.path, a.sha256)).collect()
    }
}

fn row(sequence: u64, path: &str, content: &[u8]) -> (u64, String, bytes::Bytes) {
    (sequence, path.to_owned(), sha256(content))
}

#[tokio::test]
async fn the_newest_of_each_file_is_listed_in_order_of_arrival_with_where_it_came_from() {
    let (coordinator, agent, job) = running().await;
    let first = vec![artifact("a", b"one"), artifact("b", b"two")];
    agent.report_artifacts(&job, 1, first.clone()).await.unwrap();
    agent.report_artifacts(&job, 1, first).await.unwrap();
    agent.report_artifacts(&job, 1, vec![artifact("a", b"three")]).await.unwrap();
    assert_eq!(
        follow(&coordinator, 0, false).await.next().await,
        [row(2, "b", b"two"), row(3, "a", b"three")]
    );
    assert_eq!(follow(&coordinator, 2, false).await.next().await, [row(3, "a", b"three")]);
    assert_eq!(follow(&coordinator, 3, false).await.next().await, []);
    let request = v1::StreamArtifactsRequest { job: "a".to_owned(), ..Default::default() };
    let mut stream = coordinator.files().stream_artifacts(request).await.unwrap().into_inner();
    let found = stream.message().await.unwrap().unwrap().artifacts;
    let from = (found[0].node.as_str(), found[0].node_rank, found[0].generation, found[0].mount.as_str());
    assert_eq!(from, ("n1", 0, 1, "./out"));
    coordinator.stop().await;
}

#[tokio::test]
async fn a_report_that_cannot_be_true_is_refused_whole() {
    let (coordinator, agent, job) = running().await;
    let good = || artifact("a", b"one");
    let report = async |job: &str, generation, artifacts| -> Result<(), Status> {
        agent.report_artifacts(job, generation, artifacts).await
    };
    assert_eq!(reason(report(&job, 2, vec![good()]).await), "STALE_GENERATION");
    assert_eq!(reason(report("nobody", 1, vec![good()]).await), "UNKNOWN_JOB");
    let unstored = report(&job, 1, vec![good(), artifact("b", b"not stored")]).await.unwrap_err();
    assert_eq!(unstored.code(), Code::FailedPrecondition);
    assert!(unstored.message().contains("\"b\""), "{unstored:?}");
    assert_eq!(reason(Err::<(), _>(unstored)), "UNKNOWN_BLOB");
    let wrong_size = v1::Artifact { size: 9, ..good() };
    assert_eq!(reason(report(&job, 1, vec![wrong_size]).await), "INVALID_MESSAGE");
    let outside = v1::Artifact { path: "../a".to_owned(), ..good() };
    assert_eq!(reason(report(&job, 1, vec![outside]).await), "INVALID_MESSAGE");
    let long = v1::Artifact { mount: "m".repeat(5_000), ..good() };
    assert_eq!(reason(report(&job, 1, vec![long]).await), "INVALID_MESSAGE");
    assert_eq!(reason(report(&job, 1, vec![good(); 1_001]).await), "INVALID_MESSAGE");
    let request = v1::ReportArtifactsRequest {
        job_id: job.clone(),
        generation: 1,
        node_rank: 1,
        artifacts: vec![good()],
    };
    let another_rank = coordinator.files().report_artifacts(agent.call(request.clone())).await;
    assert_eq!(reason(another_rank), "STALE_GENERATION");
    let bystander = Agent::connect(coordinator.channel.clone(), "n2").await;
    let mine = v1::ReportArtifactsRequest { node_rank: 0, ..request.clone() };
    let of_another = coordinator.files().report_artifacts(bystander.call(mine)).await;
    assert_eq!(reason(of_another), "STALE_GENERATION");
    assert_eq!(reason(coordinator.files().report_artifacts(request).await), "NO_SESSION");
    assert_eq!(follow(&coordinator, 0, false).await.next().await, []);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_follower_gets_what_comes_and_ends_with_the_job() {
    let (coordinator, mut agent, job) = running().await;
    agent.report_artifacts(&job, 1, vec![artifact("a", b"one")]).await.unwrap();
    let mut live = follow(&coordinator, 0, true).await;
    assert_eq!(live.next().await, [row(1, "a", b"one")]);
    agent.report_artifacts(&job, 1, vec![artifact("b", b"two")]).await.unwrap();
    assert_eq!(live.next().await, [row(2, "b", b"two")]);
    agent.report_artifacts(&job, 1, vec![artifact("a", b"three")]).await.unwrap();
    agent.end(0).await;
    assert_eq!(live.next().await, [row(3, "a", b"three")]);
    assert_eq!(live.next().await, []);
    // What was written last still counts, until the job starts again.
    agent.report_artifacts(&job, 1, vec![artifact("late", b"two")]).await.unwrap();
    let mut ended = follow(&coordinator, 3, true).await;
    assert_eq!((ended.next().await, ended.next().await), (vec![row(4, "late", b"two")], vec![]));
    let restart = v1::RestartJobRequest { job: job.clone() };
    coordinator.jobs().restart_job(restart).await.unwrap();
    assert_eq!(agent.run().await, 2);
    let stale = agent.report_artifacts(&job, 1, vec![artifact("b", b"one")]).await;
    assert_eq!(reason(stale), "STALE_GENERATION");
    agent.report_artifacts(&job, 2, vec![artifact("b", b"three")]).await.unwrap();
    assert_eq!(follow(&coordinator, 4, false).await.next().await, [row(5, "b", b"three")]);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_follower_of_a_job_whose_node_never_comes_back_is_not_kept_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start_in(dir, |o| {
        (o.lease, o.reconnect_window) = (Duration::from_millis(600), Duration::from_millis(1));
    })
    .await;
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    let mut request = submission("a", "k");
    request.spec.as_mut().unwrap().restart.as_mut().unwrap().infrastructure = Some(0);
    coordinator.jobs().submit_job(request).await.unwrap();
    agent.run().await;
    let mut live = follow(&coordinator, 0, true).await;
    drop(agent);
    eventually("the failure", async || {
        (coordinator.job("a").await.state() == JobState::Failed).then_some(())
    })
    .await;
    assert_eq!(live.next().await, []);
    coordinator.stop().await;
}

/// What a start of the coordinator on `dir` says, which is to fail.
async fn refused_start(dir: &std::path::Path) -> String {
    soon("a refusal", serve(options(dir), std::future::pending())).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_catalogue_that_was_emptied_or_damaged_is_refused_and_nothing_that_it_named_is_swept_away() {
    let (coordinator, agent, job) = running().await;
    store(&coordinator.channel, &[b"one"]).await.unwrap();
    agent.report_artifacts(&job, 1, vec![artifact("a", b"one")]).await.unwrap();
    drop(agent);
    let dir = coordinator.stop().await;
    let file = dir.path().join("data/artifacts.redb");
    let whole = std::fs::read(&file).unwrap();
    let torn = whole[..whole.len() / 2].to_vec();
    for content in [Vec::new(), b"garbage ".repeat(2_000), torn] {
        std::fs::write(&file, &content).unwrap();
        let refusal = refused_start(dir.path()).await;
        for said in ["artifact catalogue", "artifacts.redb", "restore it from a backup", "delete the file"] {
            assert!(refusal.contains(said), "{refusal}");
        }
        assert_eq!(std::fs::read(&file).unwrap(), content, "it stays as it was found");
    }
    std::fs::write(&file, &whole).unwrap();
    let coordinator = Coordinator::start_in(dir, |_| {}).await;
    assert_eq!(follow(&coordinator, 0, false).await.next().await, [row(1, "a", b"one")]);
    let dir = coordinator.stop().await;
    std::fs::remove_file(&file).unwrap();
    Coordinator::start_in(dir, |_| {}).await.stop().await;
}

#[tokio::test]
async fn artifacts_are_there_after_a_restart_and_their_numbers_go_on() {
    let (coordinator, agent, job) = running().await;
    agent.report_artifacts(&job, 1, vec![artifact("a", b"one"), artifact("a", b"two")]).await.unwrap();
    drop(agent);
    let coordinator = Coordinator::start_in(coordinator.stop().await, |_| {}).await;
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    agent.until(|d| !d.replicas.is_empty()).await;
    agent.report_artifacts(&job, 1, vec![artifact("b", b"one")]).await.unwrap();
    assert_eq!(follow(&coordinator, 0, false).await.next().await, [row(2, "a", b"two"), row(3, "b", b"one")]);
    coordinator.stop().await;
}

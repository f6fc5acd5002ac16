//! Checkpoint uploads that are not what they say, by an agent that a story plays.

use convoke_proto::v1;
use convoke_proto::v1::upload_checkpoint_request::Part;
use convoke_tests::{LocalCluster, ScriptedAgent, hello, reason, sh};
use sha2::{Digest as _, Sha256};
use tonic::Code;

const BODY: &[u8] = b"the weights";

fn header(job: &str, generation: u64, path: &str) -> Part {
    let file = v1::ShardFile {
        path: path.to_owned(),
        size: BODY.len() as u64,
        sha256: Sha256::digest(BODY).to_vec().into(),
    };
    Part::Header(v1::CheckpointHeader {
        reference: Some(v1::CheckpointRef { job_id: job.to_owned(), generation, step: 1 }),
        shard: Some(v1::Shard { rank: 0, files: vec![file] }),
    })
}

fn data(bytes: &'static [u8]) -> Part {
    Part::Data(bytes.into())
}

/// A cluster without real agents, and a scripted one that runs the one rank of a job.
async fn running() -> (LocalCluster, ScriptedAgent, String) {
    let cluster = LocalCluster::start(&[]).await;
    let connected = ScriptedAgent::connect(&cluster, hello("scripted", "one", 1)).await;
    let mut agent = connected.expect("a new name is welcome");
    let id = cluster.submit(&sh("job", "true")).await;
    let replica = agent.run().await;
    assert_eq!((replica.job_id.as_str(), replica.generation), (id.as_str(), 1));
    cluster.wait_state(&id, v1::JobState::Running).await;
    (cluster, agent, id)
}

#[tokio::test]
async fn nothing_is_stored_of_an_upload_that_is_not_what_its_header_says() {
    let (cluster, agent, id) = running().await;
    let wrong = |parts| async { agent.upload(parts).await.unwrap_err() };
    let cases = [
        ("HASH_MISMATCH", vec![header(&id, 1, "w"), data(b"THE weights")]),
        ("SHORT_BODY", vec![header(&id, 1, "w"), data(b"the wei")]),
        ("SHORT_BODY", vec![header(&id, 1, "w")]),
        ("BAD_PATH", vec![header(&id, 1, "../../etc/cron.d/w"), data(BODY)]),
        ("BAD_PATH", vec![header(&id, 1, "/etc/cron.d/w"), data(BODY)]),
    ];
    for (name, parts) in cases {
        let refused = wrong(parts).await;
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, name), "{refused:?}");
    }
    let long = wrong(vec![header(&id, 1, "w"), data(BODY), data(b"and more")]).await;
    assert_eq!(long.code(), Code::InvalidArgument, "{long:?}");
    let headless = wrong(vec![data(BODY)]).await;
    assert_eq!(headless.code(), Code::InvalidArgument, "{headless:?}");
    for generation in [0, 2] {
        let stale = wrong(vec![header(&id, generation, "w"), data(BODY)]).await;
        assert_eq!(stale.code(), Code::FailedPrecondition, "{stale:?}");
        assert_eq!(reason(&stale), "STALE_GENERATION");
    }
    assert_eq!(cluster.checkpoints(&id).await, []);
    assert_eq!(cluster.job(&id).await.latest_checkpoint, None);

    let stored = agent.upload(vec![header(&id, 1, "w"), data(b"the "), data(b"weights")]).await.unwrap();
    assert!(stored.complete);
    assert_eq!(cluster.pull(&id).await, [(0, "w".to_owned(), BODY.to_vec())]);
    let again = agent.upload(vec![header(&id, 1, "w"), data(BODY)]).await.unwrap();
    assert!(again.complete, "the same shard again is accepted");
    drop(agent);
    cluster.finish().await;
}

#[tokio::test]
async fn uploads_of_a_generation_that_is_over_are_refused() {
    use v1::{observed_replica, observed_task};
    let (cluster, mut agent, id) = running().await;
    let replica = v1::DesiredReplica {
        job_id: id.clone(),
        generation: 1,
        placement: Some(v1::Replica { node: "scripted".to_owned(), local_world: 1, ..Default::default() }),
        ..Default::default()
    };
    let killed = v1::TaskExit { status: Some(v1::task_exit::Status::Signal(9)), ..Default::default() };
    let ended = observed_replica::Phase::Ended(v1::PhaseEnded {});
    agent.report(&replica, ended, observed_task::Phase::Exited(killed)).await;
    let second = agent.run().await;
    assert_eq!(second.generation, 2);
    let stale = agent.upload(vec![header(&id, 1, "w"), data(BODY)]).await.unwrap_err();
    assert_eq!(reason(&stale), "STALE_GENERATION");
    assert!(agent.upload(vec![header(&id, 2, "w"), data(BODY)]).await.unwrap().complete);
    drop(agent);
    cluster.finish().await;
}

#[tokio::test]
async fn calls_beside_a_session_are_for_the_agent_that_holds_it() {
    let (cluster, agent, id) = running().await;
    let parts = || tokio_stream::iter([v1::UploadCheckpointRequest { part: Some(header(&id, 1, "w")) }]);
    let unsigned = agent.client().upload_checkpoint(parts()).await.unwrap_err();
    assert_ne!(unsigned.code(), Code::Ok);
    let mut forged = agent.signed(parts());
    forged.metadata_mut().insert("convoke-instance", "another".parse().unwrap());
    let forged = agent.client().upload_checkpoint(forged).await.unwrap_err();
    assert_eq!((forged.code(), reason(&forged).as_str()), (Code::FailedPrecondition, "NO_SESSION"));
    assert_eq!(cluster.checkpoints(&id).await, []);
    drop(agent);
    cluster.finish().await;
}

#[tokio::test]
async fn a_unique_id_is_published_once_and_only_by_the_current_generation() {
    let (cluster, agent, id) = running().await;
    let publish = |generation, byte| {
        let unique_id = vec![byte; 128].into();
        let (job_id, group) = (id.clone(), "world".to_owned());
        let request = agent.signed(v1::PublishUniqueIdRequest { job_id, generation, group, unique_id });
        let mut client = agent.client();
        async move { client.publish_unique_id(request).await }
    };
    assert_eq!(reason(&publish(2, 1).await.unwrap_err()), "STALE_GENERATION");
    publish(1, 7).await.unwrap();
    publish(1, 7).await.unwrap();
    let other = publish(1, 8).await.unwrap_err();
    assert_eq!((other.code(), reason(&other).as_str()), (Code::AlreadyExists, "UNIQUE_ID_SET"));
    let get = v1::GetUniqueIdRequest { job_id: id.clone(), generation: 1, group: "world".to_owned() };
    let got = agent.client().get_unique_id(agent.signed(get)).await.unwrap().into_inner();
    assert_eq!(got.unique_id, vec![7; 128]);
    drop(agent);
    cluster.finish().await;
}

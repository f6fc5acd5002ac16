//! Submitting twice: the same submit, the same name, another job in its place.

use convoke_proto::v1;
use convoke_tests::{LocalCluster, checkpoint, procfs, reason, sh};
use tonic::Code;

#[tokio::test]
async fn the_same_key_gives_the_same_job_even_after_a_restart_and_never_another_one() {
    let mut cluster = LocalCluster::start(&[1]).await;
    let submit = |name: &str| v1::SubmitJobRequest {
        idempotency_key: "once".to_owned(),
        spec: Some(sh(name, "true").spec()),
        ..Default::default()
    };
    let first = cluster.jobs().submit_job(submit("one")).await.unwrap().into_inner();
    assert!(!first.already_submitted);
    let id = first.job.unwrap().id;
    cluster.wait_state(&id, v1::JobState::Succeeded).await;
    cluster.kill_coordinator();
    cluster.start_coordinator().await;
    let again = cluster.jobs().submit_job(submit("one")).await.unwrap().into_inner();
    assert!(again.already_submitted);
    assert_eq!(again.job.unwrap().id, id);
    let other = cluster.jobs().submit_job(submit("two")).await.unwrap_err();
    assert_eq!(reason(&other), "KEY_REUSED");
    let all = cluster.jobs().list_jobs(v1::ListJobsRequest { all: true, project: String::new() }).await;
    assert_eq!(all.unwrap().into_inner().jobs.len(), 1);
    cluster.wait_node(0, v1::NodeState::Ready).await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_name_is_taken_until_its_job_ends_and_replacing_it_goes_on_from_its_checkpoint() {
    let cluster = LocalCluster::start(&[1]).await;
    let script = format!("{} && exec sleep 600", checkpoint(3, "mine"));
    let old = cluster.submit(&sh("train", &script)).await;
    cluster.wait_for(&old, "it has a checkpoint", |job| job.latest_checkpoint.is_some()).await;
    let successor = sh("train", r#"echo "went on from $(cat "$CONVOKE_RESUME_FROM/weights")""#);
    let submit = |replace| v1::SubmitJobRequest {
        idempotency_key: format!("successor-{replace}"),
        spec: Some(successor.spec()),
        replace,
        wait_for_nodes: false,
    };
    let taken = cluster.jobs().submit_job(submit(false)).await.unwrap_err();
    assert_eq!((taken.code(), reason(&taken).as_str()), (Code::AlreadyExists, "NAME_TAKEN"));
    assert!(taken.message().contains("--replace"), "{}", taken.message());

    let new = cluster.jobs().submit_job(submit(true)).await.unwrap().into_inner().job.unwrap().id;
    let job = cluster.wait_state(&new, v1::JobState::Succeeded).await;
    assert_eq!(job.resumed_from.map(|from| (from.job_id, from.step)), Some((old.clone(), 3)));
    let log: Vec<_> = cluster.log(&new).await.into_iter().map(|line| line.text).collect();
    assert_eq!(log, ["went on from mine"]);
    assert_eq!(cluster.job(&old).await.state(), v1::JobState::Stopped);
    assert_eq!(procfs::of_job(&old), []);
    assert_eq!(cluster.job("train").await.id, new, "a name means the newest job");
    cluster.finish().await;
}

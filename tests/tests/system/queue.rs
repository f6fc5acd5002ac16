//! Waiting for room: who waits, why, and in which order they go.

use convoke_proto::v1;
use convoke_tests::{LocalCluster, reason, sh};
use tonic::Code;

#[tokio::test]
async fn a_job_that_the_nodes_could_never_hold_is_refused_with_the_reason() {
    let cluster = LocalCluster::start(&[2, 1]).await;
    let too_wide = cluster.try_submit(&sh("wide", "true").gang(2, 2)).await.unwrap_err();
    assert_eq!((too_wide.code(), reason(&too_wide).as_str()), (Code::FailedPrecondition, "NEVER_FITS"));
    assert!(too_wide.message().contains("node-1 has 1"), "{}", too_wide.message());
    let too_many = cluster.try_submit(&sh("many", "true").gang(3, 1)).await.unwrap_err();
    assert_eq!(reason(&too_many), "NEVER_FITS");

    let plan = v1::PlanJobRequest { spec: Some(sh("wide", "true").gang(2, 2).spec()), before: Vec::new() };
    let plan = cluster.jobs().plan_job(plan).await.unwrap().into_inner();
    assert!(plan.never_fits && plan.replicas.is_empty() && plan.reason.contains("node-1"), "{plan:?}");
    cluster.finish().await;
}

#[tokio::test]
async fn a_job_that_waits_for_nodes_starts_when_one_is_added() {
    let cluster = LocalCluster::start(&[1]).await;
    let spec = Some(sh("patient", "true").gang(2, 1).spec());
    let request = v1::SubmitJobRequest {
        idempotency_key: "patient".to_owned(),
        spec,
        replace: false,
        wait_for_nodes: true,
    };
    let job = cluster.jobs().submit_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!(job.state(), v1::JobState::Queued);
    assert!(job.reason.contains("needs 2 nodes"), "{}", job.reason);
    let mut agent = cluster.extra_agent("node-9", "node-9", 1);
    cluster.wait_state(&job.id, v1::JobState::Succeeded).await;
    agent.terminate("node-9").await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_job_waits_with_the_reason_while_the_cluster_is_busy_and_starts_when_room_is_made() {
    let cluster = LocalCluster::start(&[2, 2]).await;
    let mut gate = cluster.gate("holder");
    let holder = cluster.submit(&sh("holder", &gate.wait())).await;
    cluster.wait_state(&holder, v1::JobState::Running).await;
    let waiting = cluster.submit(&sh("waiting", "true").gang(2, 2)).await;
    let job = cluster.wait_state(&waiting, v1::JobState::Queued).await;
    for word in ["needs 2 nodes with 2 free cpu slots", "has 1 free"] {
        assert!(job.reason.contains(word), "\"{}\" does not say \"{word}\"", job.reason);
    }
    gate.open();
    cluster.wait_state(&waiting, v1::JobState::Succeeded).await;
    assert_eq!(cluster.job(&holder).await.state(), v1::JobState::Succeeded);
    cluster.finish().await;
}

#[tokio::test]
async fn the_queue_goes_by_priority_and_by_submission_within() {
    let cluster = LocalCluster::start(&[1]).await;
    let mut gate = cluster.gate("holder");
    let holder = cluster.submit(&sh("holder", &gate.wait())).await;
    cluster.wait_state(&holder, v1::JobState::Running).await;
    let mut ids = Vec::new();
    for (name, priority) in [("low", -1), ("first", 0), ("second", 0), ("urgent", 5)] {
        ids.push(cluster.submit(&sh(name, "true").with(|spec| spec.priority = priority)).await);
    }
    gate.open();
    for id in &ids {
        cluster.wait_state(id, v1::JobState::Succeeded).await;
    }
    let events = cluster.events("").await.into_iter().filter(|event| event.kind == "JobRunning");
    let order: Vec<_> = events.filter_map(|event| event.job_name).collect();
    assert_eq!(order, ["holder", "urgent", "first", "second", "low"]);
    cluster.finish().await;
}

#[tokio::test]
async fn a_queued_job_that_is_stopped_never_starts() {
    let cluster = LocalCluster::start(&[1]).await;
    let mut gate = cluster.gate("holder");
    let holder = cluster.submit(&sh("holder", &gate.wait())).await;
    cluster.wait_state(&holder, v1::JobState::Running).await;
    let queued = cluster.submit(&sh("queued", "true")).await;
    cluster.stop(&queued).await;
    let job = cluster.wait_state(&queued, v1::JobState::Stopped).await;
    assert_eq!(job.generation, 0);
    gate.open();
    cluster.wait_state(&holder, v1::JobState::Succeeded).await;
    cluster.finish().await;
}

//! A rank fails: what becomes of the others, of the job, and of the work done so far.

use convoke_proto::v1;
use convoke_proto::v1::task_exit::Status;
use convoke_tests::process::signal_pid;
use convoke_tests::{LocalCluster, checkpoint, eventually, procfs, sh};
use rustix::process::Signal;

/// The rank that does not fail waits for its end.
const OTHERS_WAIT: &str = "if [ $RANK != 1 ]; then exec sleep 600; fi;";

#[tokio::test]
async fn a_rank_that_exits_3_ends_the_gang_and_the_job_fails_by_rank_node_and_code() {
    let cluster = LocalCluster::start(&[1, 1]).await;
    let script = format!("{OTHERS_WAIT} echo 'out of ideas'; exit 3");
    let id = cluster.submit(&sh("three", &script).gang(2, 1)).await;
    let job = cluster.wait_state(&id, v1::JobState::Failed).await;
    assert_eq!(procfs::of_job(&id), [], "tasks are left");
    let failure = job.last_failure.expect("a failure");
    assert_eq!(failure.class(), v1::FailureClass::Application);
    assert_eq!((failure.rank, failure.node.as_deref(), failure.generation), (Some(1), Some("node-1"), 1));
    assert_eq!(failure.exit.and_then(|exit| exit.status), Some(Status::Code(3)));
    for word in ["rank 1", "node-1", "3"] {
        assert!(job.reason.contains(word), "\"{}\" does not say \"{word}\"", job.reason);
    }
    assert_eq!((job.generation, job.restarts_application), (1, 0));
    let other = job.replicas[0].tasks[0].exit.as_ref().expect("it was stopped");
    assert!(other.stopped && other.status == Some(Status::Signal(15)), "{other:?}");
    cluster.finish().await;
}

#[tokio::test]
async fn within_its_budget_a_failed_gang_starts_again_from_the_last_complete_checkpoint() {
    let cluster = LocalCluster::start(&[1, 1]).await;
    let script = format!(
        r#"if [ $CONVOKE_GENERATION = 2 ]; then echo "resumed with $(cat "$CONVOKE_RESUME_FROM/weights")"; exit 0; fi
        if [ $RANK = 0 ]; then {} && {}; exit 3; fi
        exec sleep 600"#,
        checkpoint(1, "old"),
        checkpoint(2, "new"),
    );
    let id = cluster.submit(&sh("again", &script).gang(2, 1).application_restarts(1)).await;
    let job = cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!((job.generation, job.restarts_application, job.restarts_infrastructure), (2, 1, 0));
    let from = job.resumed_from.expect("it resumed");
    assert_eq!((from.generation, from.step), (1, 2));
    let lines: Vec<_> = cluster.log(&id).await.into_iter().filter(|line| line.generation == 2).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line.text == "resumed with new"), "{lines:?}");
    cluster.finish().await;
}

#[tokio::test]
async fn a_rank_killed_with_9_is_replaced_by_generation_2_on_the_checkpoint() {
    let cluster = LocalCluster::start(&[2, 2]).await;
    let script = format!(
        r#"if [ $CONVOKE_GENERATION = 2 ]; then echo "resumed with $(cat "$CONVOKE_RESUME_FROM/weights")"; exit 0; fi
        if [ $RANK = 0 ]; then {}; fi
        exec sleep 600"#,
        checkpoint(1, "half"),
    );
    let id = cluster.submit(&sh("killed", &script).gang(2, 2)).await;
    cluster
        .wait_for(&id, "it runs and has a checkpoint", |job| {
            job.state() == v1::JobState::Running && job.latest_checkpoint.is_some()
        })
        .await;
    let victim = eventually("rank 2 runs", async || procfs::task(&id, 2)).await;
    signal_pid(victim.pid, Signal::KILL);
    let job = cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!((job.generation, job.restarts_infrastructure, job.restarts_application), (2, 1, 0));
    let failure = job.last_failure.expect("why generation 1 ended");
    assert_eq!(failure.class(), v1::FailureClass::Infrastructure);
    assert_eq!((failure.rank, failure.node.as_deref()), (Some(2), Some("node-1")));
    assert_eq!(failure.exit.and_then(|exit| exit.status), Some(Status::Signal(9)));
    let lines = cluster.log(&id).await;
    assert_eq!(lines.iter().filter(|line| line.text == "resumed with half").count(), 4);
    cluster.finish().await;
}

#[tokio::test]
async fn a_job_that_is_killed_again_and_again_fails_when_its_budget_is_used_up() {
    let cluster = LocalCluster::start(&[1]).await;
    let id = cluster.submit(&sh("hopeless", "kill -9 $$").infrastructure_restarts(2)).await;
    let job = cluster.wait_state(&id, v1::JobState::Failed).await;
    assert_eq!((job.generation, job.restarts_infrastructure), (3, 2));
    assert!(job.reason.contains('2'), "\"{}\" does not name the budget", job.reason);
    cluster.finish().await;
}

//! Stopping a job: the signal, the grace, the end of everything that the tasks started.

use convoke_proto::v1;
use convoke_proto::v1::task_exit::Status;
use convoke_tests::{LocalCluster, checkpoint, procfs, sh};

#[tokio::test]
async fn a_stopped_task_gets_sigterm_first_and_may_save_within_its_grace() {
    let cluster = LocalCluster::start(&[1, 1]).await;
    let script = format!(
        r#"save() {{ echo "saving rank $RANK"; if [ $RANK = 0 ]; then {}; fi; exit 0; }}
        trap save TERM; sleep 600 & echo ready; wait"#,
        checkpoint(9, "last words")
    );
    let id = cluster.submit(&sh("polite", &script).gang(2, 1)).await;
    cluster.wait_state(&id, v1::JobState::Running).await;
    cluster.wait_line(&id, "ready").await;
    cluster.stop(&id).await;
    let job = cluster.wait_state(&id, v1::JobState::Stopped).await;
    assert_eq!(procfs::of_job(&id), [], "tasks are left");
    let mut saved: Vec<_> = cluster.log(&id).await.into_iter().map(|line| line.text).collect();
    saved.retain(|text| text.starts_with("saving"));
    saved.sort();
    assert_eq!(saved, ["saving rank 0", "saving rank 1"]);
    let exit = job.replicas[0].tasks[0].exit.as_ref().expect("it has exited");
    assert!(exit.stopped && exit.status == Some(Status::Code(0)), "{exit:?}");
    assert_eq!(cluster.pull(&id).await, [(0, "weights".to_owned(), b"last words".to_vec())]);
    cluster.finish().await;
}

#[tokio::test]
async fn a_task_that_ignores_sigterm_is_killed_after_its_grace_with_all_that_it_started() {
    let cluster = LocalCluster::start(&[1]).await;
    // One child in the task's group, one daemon in a session of its own whose parent is gone.
    let script =
        "trap '' TERM; sleep 601 & (setsid sleep 602 &) ; echo ready; while :; do wait; sleep 1; done";
    let id = cluster.submit(&sh("stubborn", script).with(|spec| spec.stop_grace_ms = 300)).await;
    cluster.wait_line(&id, "ready").await;
    assert!(procfs::of_job(&id).len() >= 3, "the shell, its child and its daemon");
    cluster.stop(&id).await;
    let job = cluster.wait_state(&id, v1::JobState::Stopped).await;
    let exit = job.replicas[0].tasks[0].exit.as_ref().expect("it has exited");
    assert!(exit.stopped && exit.status == Some(Status::Signal(9)), "{exit:?}");
    assert_eq!(procfs::of_job(&id), [], "its daemons are left");
    cluster.finish().await;
}

#[tokio::test]
async fn the_daemons_of_a_task_that_ends_by_itself_end_with_it() {
    let cluster = LocalCluster::start(&[1]).await;
    let id = cluster.submit(&sh("parent", "(setsid sleep 600 &); exit 0")).await;
    cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!(procfs::of_job(&id), [], "its daemons are left");
    cluster.finish().await;
}

#[tokio::test]
async fn a_stopped_job_can_be_restarted_from_where_it_was() {
    let cluster = LocalCluster::start(&[1]).await;
    let script = format!(
        r#"if [ -n "$CONVOKE_RESUME_FROM" ]; then cat "$CONVOKE_RESUME_FROM/weights"; exit 0; fi
        {}; exec sleep 600"#,
        checkpoint(1, "halfway")
    );
    let id = cluster.submit(&sh("paused", &script)).await;
    cluster.wait_for(&id, "it has a checkpoint", |job| job.latest_checkpoint.is_some()).await;
    cluster.stop(&id).await;
    cluster.wait_state(&id, v1::JobState::Stopped).await;
    cluster.jobs().restart_job(v1::RestartJobRequest { job: id.clone() }).await.unwrap();
    let done = |job: &v1::Job| job.generation == 2 && job.state() == v1::JobState::Succeeded;
    cluster.wait_for(&id, "generation 2 succeeded", done).await;
    assert!(cluster.log(&id).await.iter().any(|line| line.text == "halfway"));
    cluster.finish().await;
}

#[tokio::test]
async fn a_job_that_runs_past_its_time_limit_fails_by_that_name() {
    let cluster = LocalCluster::start(&[1]).await;
    let limited = sh("limited", "exec sleep 600").with(|spec| spec.time_limit_ms = Some(500));
    let id = cluster.submit(&limited).await;
    let job = cluster.wait_state(&id, v1::JobState::Failed).await;
    assert!(job.reason.contains("time_limit"), "{}", job.reason);
    assert_eq!(procfs::of_job(&id), []);
    cluster.finish().await;
}

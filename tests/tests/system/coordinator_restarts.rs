//! The coordinator is killed with -9 and started again: what it acknowledged is still there, and
//! what ran went on.

use convoke_proto::v1;
use convoke_tests::{LocalCluster, checkpoint, eventually, procfs, sh};

#[tokio::test]
async fn a_killed_coordinator_comes_back_with_everything_and_the_job_goes_on_in_its_generation() {
    let mut cluster = LocalCluster::start(&[2, 2]).await;
    let mut gate = cluster.gate("middle");
    let script = format!(
        r#"echo before; echo '{{"step": 1, "loss": 2}}'
        if [ $RANK = 0 ]; then {}; fi
        {}
        echo after; echo '{{"step": 2, "loss": 1}}'"#,
        checkpoint(1, "kept"),
        gate.wait()
    );
    let id = cluster.submit(&sh("steady", &script).gang(2, 2)).await;
    let so = |job: &v1::Job| job.state() == v1::JobState::Running && job.latest_checkpoint.is_some();
    cluster.wait_for(&id, "it runs and has a checkpoint", so).await;
    cluster.wait_line(&id, r#""loss": 2"#).await;
    let pids: Vec<_> = (0..4).map(|rank| procfs::task(&id, rank).expect("it runs").pid).collect();
    let history = cluster.events(&id).await;
    let identity = cluster.identity().await;

    cluster.kill_coordinator();
    cluster.start_coordinator().await;

    let after = cluster.identity().await;
    assert_eq!((&after.cluster_id, after.epoch), (&identity.cluster_id, identity.epoch + 1));
    let job = cluster.job(&id).await;
    assert_eq!((job.state(), job.generation), (v1::JobState::Running, 1));
    assert_eq!(cluster.events(&id).await[..history.len()], history);
    assert_eq!(cluster.pull(&id).await, [(0, "weights".to_owned(), b"kept".to_vec())]);
    cluster.wait_line(&id, "before").await;
    for agent in 0..2 {
        cluster.wait_node(agent, v1::NodeState::Ready).await;
    }
    let still: Vec<_> = (0..4).map(|rank| procfs::task(&id, rank).expect("it went on").pid).collect();
    assert_eq!(still, pids);

    gate.open();
    let job = cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!((job.generation, job.restarts_infrastructure), (1, 0));
    let log = cluster.log(&id).await;
    for text in ["before", "after"] {
        assert_eq!(log.iter().filter(|line| line.text == text).count(), 4, "{text}");
    }
    let mut steps: Vec<_> = cluster.metrics(&id).await.iter().map(|m| (m.rank, m.step)).collect();
    steps.sort_unstable();
    assert_eq!(steps, [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]);
    cluster.finish().await;
}

#[tokio::test]
async fn what_happens_while_the_coordinator_is_away_is_known_when_it_is_back() {
    let mut cluster = LocalCluster::start(&[1, 1]).await;
    let mut gate = cluster.gate("end");
    let script = format!("{}; echo 'nobody listens'; if [ $RANK = 1 ]; then exit 5; fi", gate.wait());
    let id = cluster.submit(&sh("alone", &script).gang(2, 1)).await;
    cluster.wait_state(&id, v1::JobState::Running).await;
    cluster.kill_coordinator();
    gate.open();
    eventually("the tasks have ended", async || procfs::of_job(&id).is_empty().then_some(())).await;
    cluster.start_coordinator().await;
    let job = cluster.wait_state(&id, v1::JobState::Failed).await;
    let failure = job.last_failure.expect("a failure");
    assert_eq!((failure.rank, failure.node.as_deref()), (Some(1), Some("node-1")));
    assert_eq!(failure.exit.and_then(|exit| exit.status), Some(v1::task_exit::Status::Code(5)));
    assert_eq!(cluster.log(&id).await.iter().filter(|line| line.text == "nobody listens").count(), 2);
    cluster.finish().await;
}

#[tokio::test]
async fn a_queue_survives_the_coordinator_and_is_served_in_order() {
    let mut cluster = LocalCluster::start(&[1]).await;
    let mut gate = cluster.gate("holder");
    let mut ids = vec![cluster.submit(&sh("holder", &gate.wait())).await];
    cluster.wait_state(&ids[0], v1::JobState::Running).await;
    for name in ["second", "third"] {
        ids.push(cluster.submit(&sh(name, "true")).await);
    }
    cluster.kill_coordinator();
    cluster.start_coordinator().await;
    gate.open();
    for id in &ids {
        let job = cluster.wait_state(id, v1::JobState::Succeeded).await;
        assert_eq!(job.generation, 1);
    }
    let events = cluster.events("").await.into_iter().filter(|event| event.kind == "JobRunning");
    let order: Vec<_> = events.filter_map(|event| event.job_name).collect();
    assert_eq!(order, ["holder", "second", "third"]);
    cluster.finish().await;
}

#[tokio::test]
async fn a_second_coordinator_on_the_same_data_is_refused() {
    let cluster = LocalCluster::start(&[1]).await;
    let data = format!("--data-dir={}", cluster.data_dir().display());
    let second = cluster.cli(&["serve", &data, "--listen=127.0.0.1:0"]).run().await.expect_code(1);
    assert!(second.stderr.contains(&cluster.data_dir().display().to_string()), "{}", second.stderr);
    cluster.finish().await;
}

#[tokio::test]
async fn a_coordinator_listens_beyond_loopback_only_when_told_insecure() {
    let cluster = LocalCluster::start(&[1]).await;
    let data = format!("--data-dir={}", cluster.directory().join("other").display());
    let refused = cluster.cli(&["serve", &data, "--listen=0.0.0.0:0"]).run().await;
    assert_ne!(refused.status.code(), Some(0));
    assert!(refused.stderr.contains("--insecure"), "{}", refused.stderr);
    cluster.finish().await;
}

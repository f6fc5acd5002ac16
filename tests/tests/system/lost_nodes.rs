//! A node dies: its lease runs out, and the gang goes on elsewhere.

use std::time::Duration;

use convoke_proto::v1;
use convoke_tests::{ClusterOptions, LocalCluster, checkpoint, eventually, procfs, sh};

fn short_lease(slots: &[u32]) -> ClusterOptions {
    let lease = Duration::from_secs(3);
    let reconnect_window = Duration::from_secs(1);
    ClusterOptions { slots: slots.to_vec(), lease, reconnect_window, ..ClusterOptions::default() }
}

#[tokio::test]
async fn a_gang_that_loses_a_node_goes_on_from_its_checkpoint_on_the_remaining_ones() {
    let mut cluster = LocalCluster::start_with(short_lease(&[1, 1, 1])).await;
    let script = format!(
        r#"if [ $CONVOKE_GENERATION = 2 ]; then echo "resumed with $(cat "$CONVOKE_RESUME_FROM/weights")"; exit 0; fi
        if [ $RANK = 0 ]; then {}; fi
        exec sleep 600"#,
        checkpoint(1, "half"),
    );
    let id = cluster.submit(&sh("survivor", &script).gang(2, 1)).await;
    let so = |job: &v1::Job| job.state() == v1::JobState::Running && job.latest_checkpoint.is_some();
    let job = cluster.wait_for(&id, "it runs and has a checkpoint", so).await;
    assert_eq!(job.replicas.iter().map(|r| r.node.as_str()).collect::<Vec<_>>(), ["node-0", "node-1"]);
    cluster.kill_node(1);
    let job = cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!(job.replicas.iter().map(|r| r.node.as_str()).collect::<Vec<_>>(), ["node-0", "node-2"]);
    assert_eq!((job.generation, job.restarts_infrastructure), (2, 1));
    let failure = job.last_failure.expect("why generation 1 ended");
    assert_eq!(
        (failure.node.as_deref(), failure.class()),
        (Some("node-1"), v1::FailureClass::Infrastructure)
    );
    let log = cluster.log(&id).await;
    assert_eq!(log.iter().filter(|line| line.text == "resumed with half").count(), 2);
    cluster.wait_node(1, v1::NodeState::Lost).await;

    cluster.start_agent(1);
    cluster.wait_node(1, v1::NodeState::Ready).await;
    let again = cluster.submit(&sh("all-three", "true").gang(3, 1)).await;
    cluster.wait_state(&again, v1::JobState::Succeeded).await;
    cluster.finish().await;
}

#[tokio::test]
async fn what_still_runs_on_a_node_that_was_given_up_is_stopped_when_its_agent_is_back() {
    let mut cluster = LocalCluster::start_with(short_lease(&[1, 1])).await;
    let script = "if [ $CONVOKE_GENERATION = 1 ]; then exec sleep 600; fi; echo second";
    let id = cluster.submit(&sh("split", script).gang(1, 1)).await;
    let job = cluster.wait_state(&id, v1::JobState::Running).await;
    let first = usize::from(job.replicas[0].node == "node-1");
    cluster.kill_agent(first);
    let job = cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!(job.generation, 2);
    assert_ne!(job.replicas[0].node, LocalCluster::node(first));
    assert!(procfs::task(&id, 0).is_some(), "nobody was there to stop the old task");
    cluster.start_agent(first);
    eventually("the old generation is stopped", async || procfs::of_job(&id).is_empty().then_some(())).await;
    let free = async || {
        let nodes = cluster.nodes().await;
        nodes.iter().all(|node| node.in_use.is_empty()).then_some(())
    };
    eventually("its device is free again", free).await;
    cluster.wait_node(first, v1::NodeState::Ready).await;
    cluster.finish().await;
}

#[tokio::test]
async fn without_another_node_the_job_waits_for_one_and_says_so() {
    let mut cluster = LocalCluster::start_with(short_lease(&[1, 1])).await;
    let script = "if [ $CONVOKE_GENERATION = 1 ]; then exec sleep 600; fi";
    let id = cluster.submit(&sh("patient", script).gang(2, 1)).await;
    cluster.wait_state(&id, v1::JobState::Running).await;
    cluster.kill_node(1);
    let queued = |job: &v1::Job| job.state() == v1::JobState::Queued && job.reason.contains("node-1");
    let job = cluster.wait_for(&id, "it waits and says why", queued).await;
    assert!(job.reason.contains("needs 2 nodes"), "{}", job.reason);
    cluster.start_agent(1);
    let job = cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!(job.generation, 2);
    cluster.finish().await;
}

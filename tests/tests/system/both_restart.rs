//! Coordinator and agents are killed with -9 together; only shims and tasks are left.

use convoke_proto::v1;
use convoke_tests::{LocalCluster, eventually, procfs, sh};

#[tokio::test]
async fn shims_alone_carry_a_job_over_the_loss_of_everything_else() {
    let mut cluster = LocalCluster::start(&[2, 2]).await;
    let mut gate = cluster.gate("middle");
    let script = format!("echo before; {}; echo after", gate.wait());
    let id = cluster.submit(&sh("steady", &script).gang(2, 2)).await;
    cluster.wait_state(&id, v1::JobState::Running).await;
    for agent in 0..2 {
        cluster.kill_agent(agent);
    }
    cluster.kill_coordinator();
    gate.open();
    eventually("the tasks have ended", async || procfs::of_job(&id).is_empty().then_some(())).await;
    cluster.start_coordinator().await;
    for agent in 0..2 {
        cluster.start_agent(agent);
    }
    let job = cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!((job.generation, job.restarts_infrastructure), (1, 0));
    let log = cluster.log(&id).await;
    for text in ["before", "after"] {
        assert_eq!(log.iter().filter(|line| line.text == text).count(), 4, "{text}");
    }
    cluster.finish().await;
}

#[tokio::test]
async fn a_running_job_goes_on_when_coordinator_and_agents_come_back_one_after_the_other() {
    let mut cluster = LocalCluster::start(&[1, 1]).await;
    let mut gate = cluster.gate("middle");
    let id = cluster.submit(&sh("steady", &gate.wait()).gang(2, 1)).await;
    cluster.wait_state(&id, v1::JobState::Running).await;
    let pids: Vec<_> = (0..2).map(|rank| procfs::task(&id, rank).expect("it runs").pid).collect();
    cluster.kill_coordinator();
    cluster.kill_agent(0);
    // An agent that starts while the coordinator is away keeps what runs.
    cluster.start_agent(0);
    cluster.start_coordinator().await;
    for agent in 0..2 {
        cluster.wait_node(agent, v1::NodeState::Ready).await;
    }
    let still: Vec<_> = (0..2).map(|rank| procfs::task(&id, rank).expect("it went on").pid).collect();
    assert_eq!(still, pids);
    gate.open();
    let job = cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!(job.generation, 1);
    cluster.finish().await;
}

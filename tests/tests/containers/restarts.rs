//! Whatever is killed with -9, containers go on, and what they print and write is not lost; a killed
//! container starts its gang again from what came back.

use convoke_proto::v1;
use convoke_tests::{JOB, LocalCluster, Scene, docker, eventually};

const LINES: usize = 4_000;

/// Both ranks print numbered lines, most of them while something is dead, and node rank 0 writes a file.
async fn lines_go_on_while(kill: impl AsyncFnOnce(&mut LocalCluster)) {
    let mut scene = Scene::start(&[1, 1]).await;
    let (mut gate, volume) = scene.gate("middle");
    let script = format!(
        "i=0; while [ $i -lt {LINES} ]; do
           [ $i = 100 ] && {}
           echo \"line $i\"; i=$((i+1))
         done
         echo \"of node rank $NODE_RANK\" > /out/file",
        gate.wait()
    );
    scene.script(&script, &format!("volumes:\n  - ./out:/out\n  - {volume}"));
    let up = scene.convoke(&["up", "--nodes", "2"]).start();
    for rank in [0, 1] {
        let printed = async || {
            let log = scene.cluster.log_so_far(JOB).await?;
            log.iter().any(|line| line.rank == rank && line.text == "line 99").then_some(())
        };
        eventually(&format!("rank {rank} waits"), printed).await;
    }
    let before = [scene.container(0).await, scene.container(1).await];
    gate.open();
    kill(&mut scene.cluster).await;

    up.end().await.expect_code(0);
    let job = scene.cluster.wait_state(JOB, v1::JobState::Succeeded).await;
    assert_eq!(job.generation, 1, "the containers {before:?} went on");
    let log = scene.cluster.log(JOB).await;
    for rank in [0, 1] {
        let lines: Vec<_> = log.iter().filter(|line| line.rank == rank).map(|line| &*line.text).collect();
        let wanted: Vec<_> = (0..LINES).map(|i| format!("line {i}")).collect();
        assert_eq!(lines, wanted, "rank {rank}");
    }
    assert_eq!(scene.read("out/file").as_deref(), Some("of node rank 0\n"));
    scene.cluster.finish().await;
}

pub(crate) async fn a_killed_agent_s_containers_go_on_and_no_line_or_file_is_lost() {
    lines_go_on_while(async |cluster| {
        cluster.kill_agent(0);
        cluster.wait_node(0, v1::NodeState::Suspect).await;
        cluster.start_agent(0);
    })
    .await;
}

pub(crate) async fn a_killed_coordinator_s_containers_go_on_and_no_line_or_file_is_lost() {
    lines_go_on_while(async |cluster| {
        cluster.kill_coordinator();
        cluster.start_coordinator().await;
    })
    .await;
}

pub(crate) async fn a_killed_container_starts_its_gang_again_with_what_came_back_until_the_budget_is_spent() {
    let scene = Scene::start(&[1, 1]).await;
    // A FIFO that nobody opens for writing: who reads it stays.
    let (gate, volume) = scene.gate("never");
    let script = format!(
        "if [ $CONVOKE_GENERATION = 1 ]; then
           [ $NODE_RANK = 0 ] && echo \"of generation 1\" > /out/model
         else
           echo \"node rank $NODE_RANK finds $(cat /out/model)\"
         fi
         {}",
        gate.wait()
    );
    let keys = format!(
        "volumes:\n  - ./out:/out\n  - {volume}\ndeploy:\n  restart_policy: {{condition: on-failure, max_attempts: 1}}"
    );
    scene.script(&script, &keys);
    let up = scene.convoke(&["up", "--nodes", "2"]).start();
    eventually("the model is here", async || scene.read("out/model")).await;
    docker(&["kill", &scene.container(1).await]);
    for rank in [0, 1] {
        scene.cluster.wait_line(JOB, &format!("node rank {rank} finds of generation 1")).await;
    }
    let job = scene.cluster.wait_for(JOB, "generation 2", |job| job.generation == 2).await;
    let failure = job.last_failure.expect("why generation 1 ended");
    assert_eq!((failure.rank, failure.node.as_deref()), (Some(1), Some("node-1")));
    docker(&["kill", &scene.container(0).await]);
    let up = up.end().await.expect_code(137);
    assert!(up.stderr.contains("generation 1 failed: "), "{}", up.stderr);
    let job = scene.cluster.wait_state(JOB, v1::JobState::Failed).await;
    assert_eq!(job.generation, 2);
    scene.cluster.finish().await;
}

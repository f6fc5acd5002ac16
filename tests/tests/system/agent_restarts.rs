//! An agent, or a shim, is killed with -9: tasks go on, and their ends are not lost.

use convoke_proto::v1;
use convoke_proto::v1::task_exit::Status;
use convoke_tests::process::signal_pid;
use convoke_tests::{LocalCluster, checkpoint, eventually, procfs, sh};
use rustix::process::Signal;

/// That each of so many ranks has said both of its lines, once.
async fn no_line_is_lost(cluster: &LocalCluster, id: &str, ranks: u32) {
    let log = cluster.log(id).await;
    for rank in 0..ranks {
        let lines: Vec<_> =
            log.iter().filter(|line| line.rank == rank).map(|line| line.text.as_str()).collect();
        assert_eq!(lines, ["before", "after"], "rank {rank}");
    }
}

#[tokio::test]
async fn a_restarted_agent_takes_its_running_tasks_over() {
    let mut cluster = LocalCluster::start(&[2, 2]).await;
    let mut gate = cluster.gate("middle");
    let script = format!("echo before; {}; echo after", gate.wait());
    let id = cluster.submit(&sh("steady", &script).gang(2, 2)).await;
    cluster.wait_state(&id, v1::JobState::Running).await;
    let pids: Vec<_> = (0..4).map(|rank| procfs::task(&id, rank).expect("it runs").pid).collect();
    cluster.kill_agent(1);
    cluster.wait_node(1, v1::NodeState::Suspect).await;
    cluster.start_agent(1);
    cluster.wait_node(1, v1::NodeState::Ready).await;
    let still: Vec<_> = (0..4).map(|rank| procfs::task(&id, rank).expect("it went on").pid).collect();
    assert_eq!(still, pids);
    gate.open();
    let job = cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!((job.generation, job.restarts_infrastructure), (1, 0));
    no_line_is_lost(&cluster, &id, 4).await;
    cluster.finish().await;
}

#[tokio::test]
async fn exit_codes_of_the_time_without_an_agent_are_reported_by_the_next_one() {
    let mut cluster = LocalCluster::start(&[1, 1]).await;
    let mut gate = cluster.gate("end");
    let script =
        format!("{}; if [ $RANK = 1 ]; then echo 'last words'; exit 7; fi; exec sleep 600", gate.wait());
    let id = cluster.submit(&sh("unseen", &script).gang(2, 1)).await;
    cluster.wait_state(&id, v1::JobState::Running).await;
    cluster.kill_agent(1);
    gate.open();
    let gone = async || procfs::task(&id, 1).is_none().then_some(());
    eventually("rank 1 has ended", gone).await;
    cluster.start_agent(1);
    let job = cluster.wait_state(&id, v1::JobState::Failed).await;
    let failure = job.last_failure.expect("a failure");
    assert_eq!((failure.rank, failure.node.as_deref()), (Some(1), Some("node-1")));
    assert_eq!(failure.exit.and_then(|exit| exit.status), Some(Status::Code(7)));
    assert!(cluster.log(&id).await.iter().any(|line| line.text == "last words"));
    cluster.finish().await;
}

#[tokio::test]
async fn a_checkpoint_left_while_no_agent_ran_is_stored_by_the_next_one() {
    let mut cluster = LocalCluster::start(&[1]).await;
    let mut gate = cluster.gate("save");
    let script = format!("{}; {}", gate.wait(), checkpoint(4, "late"));
    let id = cluster.submit(&sh("late", &script)).await;
    cluster.wait_state(&id, v1::JobState::Running).await;
    cluster.kill_agent(0);
    gate.open();
    eventually("the task has ended", async || procfs::of_job(&id).is_empty().then_some(())).await;
    cluster.start_agent(0);
    let job = cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!(job.latest_checkpoint.map(|c| c.step), Some(4));
    assert_eq!(cluster.pull(&id).await, [(0, "weights".to_owned(), b"late".to_vec())]);
    cluster.finish().await;
}

#[tokio::test]
async fn a_stop_that_came_while_the_agent_was_away_is_carried_out_when_it_is_back() {
    let mut cluster = LocalCluster::start(&[1]).await;
    let id = cluster.submit(&sh("late-stop", "exec sleep 600")).await;
    cluster.wait_state(&id, v1::JobState::Running).await;
    cluster.kill_agent(0);
    cluster.stop(&id).await;
    assert!(procfs::task(&id, 0).is_some(), "nobody was there to stop it");
    cluster.start_agent(0);
    cluster.wait_state(&id, v1::JobState::Stopped).await;
    assert_eq!(procfs::of_job(&id), []);
    cluster.finish().await;
}

#[tokio::test]
async fn a_killed_shim_takes_its_task_along_and_the_gang_starts_again() {
    let cluster = LocalCluster::start(&[1, 1]).await;
    let script = "if [ $CONVOKE_GENERATION = 1 ]; then exec sleep 600; fi";
    let id = cluster.submit(&sh("orphan", script).gang(2, 1)).await;
    cluster.wait_state(&id, v1::JobState::Running).await;
    let task = eventually("rank 0 runs", async || procfs::task(&id, 0)).await;
    assert_ne!(task.parent, 1, "a shim is the task's parent");
    signal_pid(task.parent, Signal::KILL);
    let job = cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!((job.generation, job.restarts_infrastructure), (2, 1));
    let failure = job.last_failure.expect("why generation 1 ended");
    assert_eq!((failure.rank, failure.class()), (Some(0), v1::FailureClass::Infrastructure));
    assert_eq!(procfs::of_job(&id), []);
    cluster.finish().await;
}

#[tokio::test]
async fn an_agent_whose_records_are_damaged_takes_its_tasks_over_and_starts_none_twice() {
    let mut cluster = LocalCluster::start(&[2]).await;
    let mut gate = cluster.gate("middle");
    let script = format!("echo before; {}; echo after", gate.wait());
    let id = cluster.submit(&sh("steady", &script).gang(1, 2)).await;
    cluster.wait_state(&id, v1::JobState::Running).await;
    let pids = [0, 1].map(|rank| procfs::task(&id, rank).expect("it runs").pid);
    cluster.kill_agent(0);
    let mut damaged = 0;
    for place in ["replicas", "tasks"] {
        let directories = std::fs::read_dir(cluster.directory().join("node-0").join(place)).unwrap();
        let files = directories.flatten().flat_map(|directory| {
            ["record.json", "task.json", "started.json"].map(|name| directory.path().join(name))
        });
        for file in files.filter(|file| file.exists()) {
            let whole = std::fs::read(&file).unwrap();
            std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1 + 2 * 2);
    for told in ["DamagedRecord", "is damaged", "is not what this agent writes"] {
        cluster.announce("node-0", told);
    }
    cluster.start_agent(0);
    cluster.wait_node(0, v1::NodeState::Ready).await;
    assert_eq!([0, 1].map(|rank| procfs::task(&id, rank).expect("it went on").pid), pids);
    gate.open();
    let job = cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!((job.generation, job.restarts_infrastructure), (1, 0));
    no_line_is_lost(&cluster, &id, 2).await;
    cluster.finish().await;
}

#[tokio::test]
async fn an_agent_under_another_name_does_not_touch_the_tasks_of_the_directorys_node() {
    let mut cluster = LocalCluster::start(&[1]).await;
    let mut gate = cluster.gate("middle");
    let id = cluster.submit(&sh("steady", &gate.wait())).await;
    cluster.wait_state(&id, v1::JobState::Running).await;
    let pid = procfs::task(&id, 0).expect("it runs").pid;
    cluster.kill_agent(0);
    let mut renamed = cluster.extra_agent("another", "node-0", 1);
    assert_eq!(renamed.end("the renamed agent").await.code(), Some(1));
    for said in ["belongs to node node-0", "--node node-0", "another --state-dir"] {
        assert!(renamed.log().contains(said), "{}", renamed.log());
    }
    assert_eq!(procfs::task(&id, 0).expect("it went on").pid, pid);
    cluster.start_agent(0);
    cluster.wait_node(0, v1::NodeState::Ready).await;
    assert_eq!(procfs::task(&id, 0).expect("it went on").pid, pid);
    gate.open();
    let job = cluster.wait_state(&id, v1::JobState::Succeeded).await;
    assert_eq!(job.generation, 1);
    cluster.finish().await;
}

#[tokio::test]
async fn two_agents_on_one_state_directory_are_one_too_many() {
    let cluster = LocalCluster::start(&[1]).await;
    let mut second = cluster.extra_agent("other", "node-0", 1);
    let status = second.end("the second agent").await;
    assert_eq!(status.code(), Some(1));
    assert!(second.log().contains("--state-dir"), "{}", second.log());
    cluster.finish().await;
}

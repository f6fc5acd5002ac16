//! A replica's life through the agent: prepare, start, exits, stop, removal, and the agent's death
//! in between.

mod support;

use std::fs;

use convoke_model::{
    DesiredReplica, ExitStatus, ObservedReplica, ReplicaGoal, ReplicaPhase, TaskExit, TaskPhase,
};
use support::{Coordinator, Site, running, running_at, shell, stopped, until};

fn exits(replica: &ObservedReplica) -> Option<Vec<TaskExit>> {
    let exit = |phase: &TaskPhase| match phase {
        TaskPhase::Exited(exit) => Some(exit.clone()),
        TaskPhase::Waiting | TaskPhase::Running { .. } => None,
    };
    replica.tasks.iter().map(|t| exit(&t.phase)).collect()
}

/// The exits of a replica that has ended.
fn ended(replica: &ObservedReplica) -> Option<Vec<TaskExit>> {
    (replica.phase == ReplicaPhase::Ended).then(|| exits(replica)).flatten()
}

fn codes(exits: &[TaskExit]) -> Vec<ExitStatus> {
    exits.iter().map(|e| e.status).collect()
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gangs_share_is_prepared_then_started_and_its_exits_are_reported() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    let replica = shell("j", 1, &["cpu-0", "cpu-1"], "exit $RANK");
    coordinator.want(&[DesiredReplica { goal: ReplicaGoal::Prepared, ..replica.clone() }]);
    let ports = coordinator
        .wait_replica(&replica, "ready", |r| match &r.phase {
            ReplicaPhase::Ready { master_port, task_ports, .. } => Some((*master_port, task_ports.len())),
            _ => None,
        })
        .await;
    assert!(ports.0 > 0 && ports.1 == 2);
    coordinator.want(&[running(&replica)]);
    let exits = coordinator.wait_replica(&replica, "the end", ended).await;
    assert_eq!(codes(&exits), [ExitStatus::Code(0), ExitStatus::Code(1)]);
    coordinator.want(&[]);
    coordinator.wait("removal", |m| m.observed.as_ref()?.replicas.is_empty().then_some(())).await;
    let left = fs::read_dir(site.state().join("tasks")).unwrap().count()
        + fs::read_dir(site.state().join("replicas")).unwrap().count();
    assert_eq!(left, 0, "nothing is left on disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_is_exit_127_with_its_name() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    let mut replica = shell("j", 1, &["cpu-0"], "");
    replica.spec.command = vec!["/no/such/trainer".into()];
    coordinator.want(&[running(&replica)]);
    let exits = coordinator.wait_replica(&replica, "the end", ended).await;
    assert_eq!(codes(&exits), [ExitStatus::Code(127)]);
    assert!(exits[0].message.as_deref().unwrap().contains("/no/such/trainer"), "{exits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_working_directory_is_a_refusal_that_names_it() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    let mut replica = shell("j", 1, &["cpu-0"], "true");
    replica.spec.working_dir = Some("/no/such/place".into());
    coordinator.want(&[replica.clone()]);
    let refused = |r: &ObservedReplica| match &r.phase {
        ReplicaPhase::Refused { message, retryable, .. } => Some((message.clone(), *retryable)),
        _ => None,
    };
    let (message, retryable) = coordinator.wait_replica(&replica, "a refusal", refused).await;
    assert!(message.contains("/no/such/place") && !retryable, "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_the_whole_group_and_leaves_no_orphan() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    let orphan = site.path("orphan");
    // Deaf to SIGTERM, with a child that is deaf too.
    let script = format!(
        "trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > {0}.tmp; mv {0}.tmp {0}; while :; do sleep 1; done' & wait; wait",
        orphan.display()
    );
    let replica = shell("j", 1, &["cpu-0"], &script);
    coordinator.want(&[running(&replica)]);
    coordinator.wait_running(&replica).await;
    let pid = until("the child", || fs::read_to_string(&orphan).ok()).await;
    assert!(is_alive(&pid));
    coordinator.want(&[stopped(&replica, 200)]);
    let exits = coordinator.wait_replica(&replica, "the end", ended).await;
    assert!(exits[0].stopped, "{exits:?}");
    assert_eq!(exits[0].status, ExitStatus::Signal(9));
    assert!(!is_alive(&pid), "the child outlived its task");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_gives_a_start_up_that_waits_for_its_peers() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    // It takes connections and never answers.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    mute.set_nonblocking(true).unwrap();
    let mut replica = shell("j", 1, &["cpu-0"], "true");
    replica.node_count = 2;
    let own = running(&replica);
    let ReplicaGoal::Running(mut rendezvous) = own.goal.clone() else { unreachable!() };
    let mut peer = rendezvous.peers[0].clone();
    peer.node = convoke_model::NodeId::new("n2").unwrap();
    peer.probe_port = Some(mute.local_addr().unwrap().port());
    rendezvous.peers.push(peer);
    coordinator.want(&[running_at(&replica, rendezvous)]);
    let asked = until("the probe", || mute.accept().ok()).await;
    coordinator.want(&[stopped(&replica, 60_000)]);
    let over = |r: &ObservedReplica| match &r.phase {
        ReplicaPhase::Ended | ReplicaPhase::Refused { .. } => {
            Some((r.phase.clone(), r.tasks[0].phase.clone()))
        }
        _ => None,
    };
    let end = coordinator.wait_replica(&replica, "the end", over).await;
    assert_eq!(end, (ReplicaPhase::Ended, TaskPhase::Waiting));
    // A start that goes on is refused in the end: the peer is not reached.
    let log = site.log();
    assert!(log.contains("its start is given up") && !log.contains("cannot reach node n2"), "{log}");
    drop(asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn absence_from_the_desired_state_stops_and_removes() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    let replica = shell("j", 1, &["cpu-0"], "exec sleep 600");
    coordinator.want(&[running(&replica)]);
    let pids = coordinator.wait_running(&replica).await;
    coordinator.want(&[]);
    coordinator.wait("removal", |m| m.observed.as_ref()?.replicas.is_empty().then_some(())).await;
    assert!(!is_alive(&pids[0].to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agents_tasks_go_on_and_the_next_one_reports_what_happened_meanwhile() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let agent = site.agent(&coordinator.url());
    let go = site.path("go");
    // Rank 0 ends while no agent is there, rank 1 runs on.
    let script = format!(
        "if [ $RANK = 0 ]; then while [ ! -e {0} ]; do sleep 0.05; done; touch {0}.done; exit 7; else exec sleep 600; fi",
        go.display()
    );
    let replica = shell("j", 1, &["cpu-0", "cpu-1"], &script);
    coordinator.want(&[running(&replica)]);
    let pids = coordinator.wait_running(&replica).await;
    agent.kill();
    fs::write(&go, "").unwrap();
    let rank_0 = pids[0].to_string();
    until("rank 0's end", || (site.path("go.done").exists() && !is_alive(&rank_0)).then_some(())).await;
    let _agent = site.agent(&coordinator.url());
    let both = |r: &ObservedReplica| match (&r.tasks[0].phase, &r.tasks[1].phase) {
        (TaskPhase::Exited(exit), TaskPhase::Running { pid, .. }) => Some((exit.clone(), *pid)),
        _ => None,
    };
    let (exit, pid) = coordinator.wait_replica(&replica, "one exit and one running task", both).await;
    assert_eq!((exit.status, pid), (ExitStatus::Code(7), pids[1]));
    // Its devices are still taken: another replica waits for them, and gets them after the stop.
    let other = shell("k", 1, &["cpu-1"], "exit 0");
    coordinator.want(&[stopped(&replica, 100), running(&other)]);
    coordinator.wait_replica(&other, "the other's end", ended).await;
    assert!(!is_alive(&pids[1].to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_touches_nothing_before_it_hears_a_desired_state() {
    let (mut coordinator, site) = (Coordinator::start().await, Site::new());
    let agent = site.agent(&coordinator.url());
    let replica = shell("j", 1, &["cpu-0"], "exec sleep 600");
    coordinator.want(&[running(&replica)]);
    let pids = coordinator.wait_running(&replica).await;
    coordinator.stop().await;
    agent.kill();
    coordinator.memory().observed = None;
    let _agent = site.agent(&coordinator.url());
    coordinator.start_again().await;
    let first = coordinator.wait("an observed state", |m| m.observed.clone()).await;
    assert_eq!(first.replicas.len(), 1, "known from the first report on");
    assert_eq!(coordinator.wait_running(&replica).await, pids);
}

//! Orders that an agent must not follow: of another cluster, of an older revision. A story plays the
//! coordinator; the agent, its shim and its task are real.

use convoke_proto::v1;
use convoke_proto::v1::desired_replica::Goal;
use convoke_proto::v1::observed_replica::Phase;
use convoke_tests::{AgentSession, LocalCluster, ScriptedCoordinator, eventually, procfs, sh};

fn state(cluster: &str, epoch: u64, revision: u64, replicas: Vec<v1::DesiredReplica>) -> v1::DesiredState {
    v1::DesiredState { cluster_id: cluster.to_owned(), epoch, revision, replicas }
}

/// The one replica of a job that only waits, with this goal.
fn replica(job: &str, goal: Goal) -> Vec<v1::DesiredReplica> {
    let placement = v1::Replica {
        node: "scripted".to_owned(),
        devices: vec!["cpu-0".to_owned()],
        local_world: 1,
        ..Default::default()
    };
    vec![v1::DesiredReplica {
        job_id: job.to_owned(),
        generation: 1,
        spec: Some(sh("waits", "exec sleep 600").spec()),
        placement: Some(placement),
        world_size: 1,
        node_count: 1,
        goal: Some(goal),
        resume_from: None,
        predecessors: Vec::new(),
    }]
}

fn running(ready: &v1::PhaseReady) -> Goal {
    let peer = v1::Peer {
        node: "scripted".to_owned(),
        address: ready.address.clone(),
        port: ready.task_ports[0],
        ..Default::default()
    };
    Goal::Running(v1::Rendezvous {
        master_addr: ready.address.clone(),
        master_port: ready.master_port,
        world_size: 1,
        peers: vec![peer],
        services: Vec::new(),
    })
}

/// Has the agent run the replica under cluster `own`, epoch 1, revision 6; returns what it runs under.
async fn started(job: &str, session: &mut AgentSession) -> (Goal, u32) {
    session.welcome("own").await;
    session.desire(state("own", 1, 5, replica(job, Goal::Prepared(v1::GoalPrepared {})))).await;
    let phase = |state: &v1::ObservedState| state.replicas.first().and_then(|r| r.phase.clone());
    let is_ready = |state: &v1::ObservedState| matches!(phase(state), Some(Phase::Ready(_)));
    let observed = session.observed("it is ready", is_ready).await;
    let Some(Phase::Ready(ready)) = phase(&observed) else { panic!("{observed:?}") };
    let goal = running(&ready);
    session.desire(state("own", 1, 6, replica(job, goal.clone()))).await;
    let is_started = |state: &v1::ObservedState| matches!(phase(state), Some(Phase::Started(_)));
    session.observed("it is started", is_started).await;
    let task = eventually("the task runs", async || procfs::task(job, 0)).await;
    (goal, task.pid)
}

#[tokio::test]
async fn an_agent_keeps_everything_running_whatever_a_foreign_or_older_state_leaves_out() {
    let job = "not-forgotten";
    let cluster = LocalCluster::start(&[]).await;
    let mut coordinator = ScriptedCoordinator::start().await;
    cluster.announce("scripted", "was refused");
    let mut agent = cluster.agent_of(&coordinator.url, "scripted", "scripted", 1);
    let mut session = coordinator.session().await;
    assert_eq!(session.hello.cluster_id, "", "it has never seen a cluster");
    let (goal, pid) = started(job, &mut session).await;

    let condition = |state: &v1::ObservedState, name: &str| state.conditions.iter().any(|c| c.name == name);
    session.desire(state("own", 1, 5, Vec::new())).await;
    session.observed("it tells of the older one", |state| condition(state, "StaleDesiredState")).await;
    session.desire(state("another", 9, 9, Vec::new())).await;
    session.observed("it tells of the foreign one", |state| condition(state, "ForeignDesiredState")).await;
    session.desire(state("own", 1, 7, replica(job, goal))).await;
    session.observed("it follows its own again", |state| state.applied_revision == 7).await;
    let task = procfs::task(job, 0).expect("it was left alone");
    assert_eq!(task.pid, pid);

    session.desire(state("own", 1, 8, Vec::new())).await;
    session
        .observed("it has stopped", |state| state.applied_revision == 8 && state.replicas.is_empty())
        .await;
    assert_eq!(procfs::of_job(job), []);
    agent.terminate("the agent").await;
    cluster.finish().await;
}

#[tokio::test]
async fn an_agent_does_not_join_another_cluster_and_its_tasks_go_on() {
    let job = "not-taken-along";
    let cluster = LocalCluster::start(&[]).await;
    let mut coordinator = ScriptedCoordinator::start().await;
    let mut agent = cluster.agent_of(&coordinator.url, "scripted", "scripted", 1);
    let mut session = coordinator.session().await;
    let (_, pid) = started(job, &mut session).await;
    agent.kill9();
    drop(session);
    cluster.announce("scripted", "belongs to another cluster");
    let mut agent = cluster.agent_of(&coordinator.url, "scripted", "scripted", 1);
    let session = coordinator.session().await;
    assert_eq!(session.hello.cluster_id, "own");
    session.welcome("another").await;

    // Its task keeps its agent, which tries again.
    let mut session = coordinator.session().await;
    assert!(agent.log().contains("belongs to another cluster"), "{}", agent.log());
    assert_eq!(procfs::task(job, 0).expect("it was left alone").pid, pid);
    session.welcome("own").await;
    session.desire(state("own", 1, 9, Vec::new())).await;
    session
        .observed("it has stopped", |state| state.applied_revision == 9 && state.replicas.is_empty())
        .await;
    assert_eq!(procfs::of_job(job), []);

    // Without a task there is nothing to stay for.
    drop(session);
    cluster.announce("scripted", "running tasks go on, trying again");
    coordinator.session().await.welcome("another").await;
    assert_eq!(agent.end("the agent").await.code(), Some(4));
    cluster.finish().await;
}

//! The control stream: joining, refusals, reconnecting, and desired states that must not be obeyed.

mod support;

use convoke_model::{ClusterId, DesiredState, Epoch, Revision};
use convoke_proto::refusal;
use support::{Coordinator, Site, running, shell};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_registers_what_it_was_told_and_reports_at_once() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    let hello = coordinator.wait("a hello", |m| m.hellos.first().cloned()).await;
    let node = hello.node.unwrap();
    assert_eq!((node.id.as_str(), node.devices.len()), ("n1", 4));
    assert_eq!(node.labels["zone"], "a");
    assert_eq!(node.addresses[0].address, "127.0.0.1");
    assert_eq!(hello.cluster_id, "", "it belongs to no cluster yet");
    coordinator.wait("an observed state", |m| m.observed.clone()).await;
    coordinator.wait("heartbeats", |m| (m.heartbeats > 2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_finds_a_restarted_coordinator_and_is_the_same_as_before() {
    let (mut coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    coordinator.wait("an observed state", |m| m.observed.clone()).await;
    coordinator.stop().await;
    coordinator.start_again().await;
    let hellos = coordinator.wait("a second hello", |m| (m.hellos.len() > 1).then(|| m.hellos.clone())).await;
    assert_eq!(hellos[0].instance, hellos[1].instance);
    assert_eq!(hellos[1].cluster_id, "c1");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_agent_with_success() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let agent = site.agent(&coordinator.url());
    coordinator.wait("an observed state", |m| m.observed.clone()).await;
    assert_eq!(agent.terminate().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_version_ends_the_agent_with_code_3() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let status = refusal(Code::FailedPrecondition, "WRONG_PROTOCOL", "this coordinator speaks version 2");
    coordinator.memory().refuse_hello = Some(status);
    assert_eq!(site.agent(&coordinator.url()).exited().await.code(), Some(3));
    assert!(site.log().contains("this coordinator speaks version 2"), "{}", site.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_ends_the_agent_with_code_4_and_says_what_to_do() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    coordinator.memory().refuse_hello =
        Some(refusal(Code::FailedPrecondition, "WRONG_CLUSTER", "this is cluster c1"));
    assert_eq!(site.agent(&coordinator.url()).exited().await.code(), Some(4));
    assert!(site.log().contains("--state-dir"), "{}", site.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_name_is_taken_waits_until_it_is_free() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    coordinator.memory().refuse_hello =
        Some(refusal(Code::AlreadyExists, "NODE_TAKEN", "another agent is node n1"));
    let _agent = site.agent(&coordinator.url());
    coordinator.wait("a refused hello", |m| m.hellos.first().cloned()).await;
    coordinator.memory().refuse_hello = None;
    coordinator.wait("an observed state", |m| m.observed.clone()).await;
    assert_eq!(site.log().matches("NODE_TAKEN").count(), 1, "said once: {}", site.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_on_the_same_state_directory_is_refused() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    coordinator.wait("an observed state", |m| m.observed.clone()).await;
    assert_eq!(site.agent(&coordinator.url()).exited().await.code(), Some(1));
    assert!(site.log().contains("another convoke-agent is using the state directory"), "{}", site.log());
}

/// Sends what must not be obeyed to an agent with a running task, and expects `condition`.
async fn refuses(make: impl Fn(DesiredState) -> DesiredState, condition: &str) {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let replica = shell("j", 1, &["cpu-0"], "exec sleep 600");
    let _agent = site.agent(&coordinator.url());
    coordinator.want(&[running(&replica)]);
    let pids = coordinator.wait_running(&replica).await;
    let good = coordinator.desired();
    coordinator.send(make(DesiredState { replicas: Vec::new(), ..good.clone() }));
    coordinator
        .wait(condition, |m| {
            m.observed.as_ref()?.conditions.iter().any(|c| c.name == condition).then_some(())
        })
        .await;
    assert_eq!(coordinator.wait_running(&replica).await, pids, "it must run on");
    coordinator.send(good);
    coordinator.wait("no condition", |m| m.observed.as_ref()?.conditions.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desired_state_of_an_older_revision_stops_nothing() {
    refuses(|good| DesiredState { revision: Revision(1), ..good }, "StaleDesiredState").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desired_state_of_an_older_epoch_stops_nothing() {
    let older = |good: DesiredState| DesiredState { epoch: Epoch(0), revision: Revision(99), ..good };
    refuses(older, "StaleDesiredState").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desired_state_of_another_cluster_stops_nothing() {
    let foreign =
        |good| DesiredState { cluster: ClusterId::new("c2").unwrap(), revision: Revision(99), ..good };
    refuses(foreign, "ForeignDesiredState").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desired_state_that_could_not_be_written_is_obeyed_once_it_can() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    let accepted = site.state().join("accepted.json");
    support::until("the first stamp", || accepted.is_file().then_some(())).await;
    std::fs::remove_file(&accepted).unwrap();
    std::fs::create_dir_all(accepted.join("in-the-way")).unwrap();
    let replica = shell("j", 1, &["cpu-0"], "exec sleep 600");
    coordinator.want(&[running(&replica)]);
    wait_failed(&coordinator, true).await;
    std::fs::remove_dir_all(&accepted).unwrap();
    coordinator.wait_running(&replica).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_record_could_not_be_written_is_taken_up_once_it_can() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    let replicas = site.state().join("replicas");
    // Not before it has read the directory, which it does when it starts.
    coordinator.wait("the first report", |m| m.observed.clone()).await;
    std::fs::remove_dir(&replicas).unwrap();
    std::fs::write(&replicas, "in the way").unwrap();
    let replica = shell("j", 1, &["cpu-0"], "exec sleep 600");
    coordinator.want(&[running(&replica)]);
    wait_failed(&coordinator, true).await;
    std::fs::remove_file(&replicas).unwrap();
    coordinator.wait_running(&replica).await;
    wait_failed(&coordinator, false).await;
}

/// Waits until the agent says, or no longer says, that its disk does not take what it must keep.
async fn wait_failed(coordinator: &Coordinator, failed: bool) {
    coordinator
        .wait("the condition", |m| {
            let conditions = &m.observed.as_ref()?.conditions;
            (conditions.iter().any(|c| c.name == "LedgerFailed") == failed).then_some(())
        })
        .await;
}

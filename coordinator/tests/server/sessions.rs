use std::time::Duration;

use convoke_proto::v1;
use convoke_proto::v1::control_request::Message as FromAgent;
use convoke_proto::v1::control_response::Message as ToAgent;
use tonic::Code;

use crate::agent::{Agent, greet, hello, lines};
use crate::coordinator::{Coordinator, eventually, reason};

#[tokio::test]
async fn an_agent_of_another_protocol_is_refused_by_both_numbers() {
    let coordinator = Coordinator::start().await;
    let old = v1::Hello { protocol_version: 99, ..hello("n1", "i1") };
    let status = greet(coordinator.channel.clone(), FromAgent::Hello(old)).await.unwrap_err();
    assert_eq!(convoke_proto::reason(&status).as_deref(), Some("WRONG_PROTOCOL"));
    assert!(status.message().contains("99"), "{status:?}");
    coordinator.stop().await;
}

#[tokio::test]
async fn a_node_name_that_a_living_agent_holds_is_refused() {
    let coordinator = Coordinator::start().await;
    let _first = Agent::connect(coordinator.channel.clone(), "n1").await;
    let second = greet(coordinator.channel.clone(), FromAgent::Hello(hello("n1", "another"))).await;
    assert_eq!(reason(second), "NODE_TAKEN");
    coordinator.stop().await;
}

#[tokio::test]
async fn an_instance_that_a_living_node_has_is_refused_to_another_node_whose_session_goes_on() {
    let coordinator = Coordinator::start().await;
    let mut first = Agent::connect(coordinator.channel.clone(), "n1").await;
    let second = greet(coordinator.channel.clone(), FromAgent::Hello(hello("n2", "n1-instance"))).await;
    assert_eq!(reason(second), "NODE_INSTANCE_TAKEN");
    first.send(FromAgent::Heartbeat(v1::Heartbeat { sequence: 1 })).await;
    while !matches!(first.next().await.unwrap(), ToAgent::Heartbeat(_)) {}
    coordinator.stop().await;
}

#[tokio::test]
async fn an_agent_of_another_cluster_is_refused() {
    let coordinator = Coordinator::start().await;
    let foreign = v1::Hello { cluster_id: "somewhere-else".to_owned(), ..hello("n1", "i1") };
    assert_eq!(reason(greet(coordinator.channel.clone(), FromAgent::Hello(foreign)).await), "WRONG_CLUSTER");
    coordinator.stop().await;
}

#[tokio::test]
async fn a_greeting_that_is_none_or_is_incomplete_is_refused() {
    let coordinator = Coordinator::start().await;
    let heartbeat = FromAgent::Heartbeat(v1::Heartbeat { sequence: 1 });
    assert_eq!(reason(greet(coordinator.channel.clone(), heartbeat).await), "INVALID_MESSAGE");
    let nameless = v1::Hello { node: None, ..hello("n1", "i1") };
    assert_eq!(
        reason(greet(coordinator.channel.clone(), FromAgent::Hello(nameless)).await),
        "INVALID_MESSAGE"
    );
    coordinator.stop().await;
}

#[tokio::test]
async fn heartbeats_are_acknowledged_with_their_number() {
    let coordinator = Coordinator::start().await;
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    assert_eq!(agent.welcome.lease_ms, 15_000);
    agent.send(FromAgent::Heartbeat(v1::Heartbeat { sequence: 42 })).await;
    let acknowledged = loop {
        if let ToAgent::Heartbeat(v1::HeartbeatAck { sequence }) = agent.next().await.unwrap() {
            break sequence;
        }
    };
    assert_eq!(acknowledged, 42);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_new_session_of_the_same_agent_takes_over_and_the_old_one_is_closed() {
    let coordinator = Coordinator::start().await;
    let mut old = Agent::connect(coordinator.channel.clone(), "n1").await;
    let mut new = Agent::connect(coordinator.channel.clone(), "n1").await;
    assert_eq!(convoke_proto::reason(&old.closed().await).as_deref(), Some("SESSION_CLOSED"));
    new.send(FromAgent::Heartbeat(v1::Heartbeat { sequence: 1 })).await;
    while !matches!(new.next().await.unwrap(), ToAgent::Heartbeat(_)) {}
    coordinator.stop().await;
}

#[tokio::test]
async fn an_agent_that_falls_silent_is_closed_and_its_node_suspect() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start_in(dir, |o| o.lease = Duration::from_millis(900)).await;
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    assert_eq!(convoke_proto::reason(&agent.closed().await).as_deref(), Some("SILENT"));
    eventually("another state than ready", async || {
        let nodes =
            coordinator.cluster().list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner().nodes;
        (nodes[0].state() != v1::NodeState::Ready).then_some(())
    })
    .await;
    coordinator.stop().await;
}

#[tokio::test]
async fn only_the_agent_that_holds_the_session_may_call() {
    let coordinator = Coordinator::start().await;
    let agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    let request = v1::FetchCheckpointRequest { reference: None };
    let anonymous = agent.calls.clone().fetch_checkpoint(request).await;
    assert_eq!(reason(anonymous), "NO_SESSION");
    let mut impostor = agent.call(tokio_stream::iter(vec![lines("x", 0, &["a"], false)]));
    impostor.metadata_mut().insert("convoke-instance", "another".parse().unwrap());
    assert_eq!(reason(agent.calls.clone().push_telemetry(impostor).await), "NO_SESSION");
    coordinator.stop().await;
}

#[tokio::test]
async fn a_shutdown_ends_open_streams_with_its_reason() {
    let coordinator = Coordinator::start().await;
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    coordinator.stop().await;
    let status = agent.closed().await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

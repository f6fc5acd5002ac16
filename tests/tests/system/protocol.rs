//! Peers that do not keep to the protocol, spoken to by raw gRPC clients.

use convoke_proto::{PROTOCOL_VERSION, v1};
use convoke_tests::{LocalCluster, ScriptedAgent, eventually, hello, reason, sh};
use tonic::Code;

#[tokio::test]
async fn a_node_name_that_a_living_agent_holds_is_refused_to_another_one() {
    let cluster = LocalCluster::start(&[1]).await;
    let taken = ScriptedAgent::connect(&cluster, hello("node-0", "another", 1)).await.unwrap_err();
    assert_eq!((taken.code(), reason(&taken).as_str()), (Code::AlreadyExists, "NODE_TAKEN"));
    cluster.announce("impostor", "held by another agent");
    let mut second = cluster.extra_agent("node-0", "impostor", 1);
    let said = async || second.log().contains("held by another agent").then_some(());
    eventually("the second agent says that its name is taken", said).await;
    let id = cluster.submit(&sh("still-works", "true")).await;
    cluster.wait_state(&id, v1::JobState::Succeeded).await;
    second.kill9();
    cluster.finish().await;
}

#[tokio::test]
async fn another_protocol_version_is_refused_by_both_numbers() {
    let cluster = LocalCluster::start(&[1]).await;
    let future = v1::Hello { protocol_version: PROTOCOL_VERSION + 1, ..hello("future", "i", 1) };
    let refused = ScriptedAgent::connect(&cluster, future).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "WRONG_PROTOCOL"));
    for version in [PROTOCOL_VERSION, PROTOCOL_VERSION + 1] {
        assert!(refused.message().contains(&version.to_string()), "{}", refused.message());
    }
    cluster.finish().await;
}

#[tokio::test]
async fn an_agent_of_another_cluster_is_refused() {
    let cluster = LocalCluster::start(&[1]).await;
    let stranger = v1::Hello { cluster_id: "somewhere-else".to_owned(), ..hello("stranger", "i", 1) };
    let refused = ScriptedAgent::connect(&cluster, stranger).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "WRONG_CLUSTER"));
    assert!(!cluster.nodes().await.iter().any(|n| n.info.as_ref().is_some_and(|i| i.id == "stranger")));
    cluster.finish().await;
}

#[tokio::test]
async fn a_message_over_the_size_limit_is_refused_and_the_coordinator_lives_on() {
    let cluster = LocalCluster::start(&[1]).await;
    let limit = usize::try_from(cluster.identity().await.max_message_bytes).unwrap();
    let big = sh("big", "true").variable("BIG", &"x".repeat(limit + 1));
    let refused = cluster.try_submit(&big).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
    assert!(refused.message().contains(&limit.to_string()), "{}", refused.message());

    let mut long = hello("long", "i", 1);
    long.node.as_mut().unwrap().labels.insert("k".to_owned(), "x".repeat(limit + 1));
    let refused = ScriptedAgent::connect(&cluster, long).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");

    let id = cluster.submit(&sh("small", "true")).await;
    cluster.wait_state(&id, v1::JobState::Succeeded).await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_submit_with_a_hole_in_it_is_refused_by_the_field() {
    let cluster = LocalCluster::start(&[1]).await;
    type Dig = fn(&mut v1::JobSpec);
    let holes: [(&str, Dig); 6] = [
        ("name", |spec| spec.name = "../x".to_owned()),
        ("devices", |spec| spec.devices = None),
        ("replicas", |spec| spec.replicas = 0),
        ("command", |spec| spec.command.clear()),
        ("keep", |spec| spec.checkpoint.get_or_insert_default().keep = 0),
        ("stop_signal", |spec| spec.stop_signal = 99),
    ];
    for (field, dig) in holes {
        let refused = cluster.try_submit(&sh("hole", "true").with(dig)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}: {refused:?}");
        assert!(refused.message().contains(field), "\"{}\" does not name {field}", refused.message());
    }
    let spec = Some(sh("keyless", "true").spec());
    let keyless = v1::SubmitJobRequest { spec, ..Default::default() };
    let refused = cluster.jobs().submit_job(keyless).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("key"), "{refused:?}");
    let empty = cluster.jobs().submit_job(v1::SubmitJobRequest::default()).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
    cluster.finish().await;
}

#[tokio::test]
async fn a_job_that_nobody_submitted_is_unknown_to_every_call() {
    let cluster = LocalCluster::start(&[1]).await;
    let job = || "nobody".to_owned();
    let refusals = [
        cluster.jobs().get_job(v1::GetJobRequest { job: job() }).await.unwrap_err(),
        cluster.jobs().stop_job(v1::StopJobRequest { job: job(), grace_ms: None }).await.unwrap_err(),
        cluster.jobs().restart_job(v1::RestartJobRequest { job: job() }).await.unwrap_err(),
        cluster.jobs().watch_job(v1::WatchJobRequest { job: job() }).await.unwrap_err(),
        cluster
            .jobs()
            .stream_logs(v1::StreamLogsRequest { job: job(), ..Default::default() })
            .await
            .unwrap_err(),
    ];
    for refused in refusals {
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::NotFound, "UNKNOWN_JOB"));
        assert!(refused.message().contains("nobody"), "{}", refused.message());
    }
    cluster.finish().await;
}

#[tokio::test]
async fn a_session_that_begins_without_a_hello_is_refused() {
    use v1::control_request::Message;
    let cluster = LocalCluster::start(&[1]).await;
    let channel = convoke_transport::connect(&cluster.url()).await.unwrap();
    let mut client = v1::agent_service_client::AgentServiceClient::new(channel);
    let heartbeat = Some(Message::Heartbeat(v1::Heartbeat { sequence: 1 }));
    let rude = tokio_stream::iter([v1::ControlRequest { message: heartbeat }]);
    let answer = match client.control(rude).await {
        Ok(stream) => stream.into_inner().message().await.map(|_| ()),
        Err(refused) => Err(refused),
    };
    let refused = answer.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    cluster.finish().await;
}

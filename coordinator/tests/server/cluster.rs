use convoke_coordinator::{ServeError, serve};
use convoke_proto::v1;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::{v1 as reflection, v1alpha as old_reflection};

use crate::agent::Agent;
use crate::coordinator::{Coordinator, options, soon};

async fn refused(change: impl FnOnce(&mut convoke_coordinator::ServeOptions)) -> ServeError {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    change(&mut options);
    soon("a refusal", serve(options, std::future::pending())).await.unwrap_err()
}

#[tokio::test]
async fn an_address_beyond_loopback_needs_insecure() {
    let error = refused(|o| o.listen = "0.0.0.0:0".parse().unwrap()).await;
    assert!(matches!(error, ServeError::NotLoopback(_)));
    assert!(error.to_string().contains("--insecure"), "{error}");
}

#[tokio::test]
async fn a_second_coordinator_on_the_same_directory_is_refused_and_the_first_goes_on() {
    let coordinator = Coordinator::start().await;
    let own = coordinator.dir.path().join("data");
    let error = refused(|o| o.data_dir = own).await.to_string();
    assert!(error.contains("in use by another coordinator"), "{error}");
    coordinator.submit("a").await;
    coordinator.stop().await;
}

#[tokio::test]
async fn a_taken_port_and_a_foreign_ledger_are_refused_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = refused(|o| o.listen = address).await.to_string();
    assert!(error.contains("port 0"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ledger.redb"), "notes").unwrap();
    let data = dir.path().to_owned();
    let error = refused(|o| o.data_dir = data).await.to_string();
    assert!(error.contains("not a ledger of Convoke"), "{error}");
}

#[tokio::test]
async fn the_cluster_is_the_same_after_a_restart_and_its_epoch_is_the_next() {
    let coordinator = Coordinator::start().await;
    let ask =
        async |c: &Coordinator| c.cluster().get_cluster(v1::GetClusterRequest {}).await.unwrap().into_inner();
    let first = ask(&coordinator).await;
    assert_eq!(first.max_message_bytes, 4 << 20);
    let coordinator = Coordinator::start_in(coordinator.stop().await, |_| {}).await;
    let second = ask(&coordinator).await;
    assert_eq!((second.cluster_id, second.epoch), (first.cluster_id, first.epoch + 1));
    coordinator.stop().await;
}

#[tokio::test]
async fn the_history_can_be_read_from_a_position_by_job_and_followed() {
    let coordinator = Coordinator::start().await;
    let ask = |from_sequence, follow, job: &str| v1::StreamEventsRequest {
        from_sequence,
        follow,
        job: job.to_owned(),
    };
    let mut live = coordinator.cluster().stream_events(ask(0, true, "")).await.unwrap().into_inner();
    let job = coordinator.submit("a").await;
    let _agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    let mut seen: Vec<v1::Event> = Vec::new();
    while !seen.iter().any(|e| e.node.as_deref() == Some("n1")) {
        seen.extend(soon("an event", live.message()).await.unwrap().unwrap().events);
    }
    assert!(seen.iter().any(|e| e.job_id.as_deref() == Some(&job.id)));
    assert!(seen.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
    let mut of_job = coordinator.cluster().stream_events(ask(0, false, "a")).await.unwrap().into_inner();
    while let Some(page) = soon("history", of_job.message()).await.unwrap() {
        assert!(page.events.iter().all(|e| e.job_id.as_deref() == Some(&job.id)));
    }
    let from = seen.last().unwrap().sequence;
    let mut late = coordinator.cluster().stream_events(ask(from, false, "")).await.unwrap().into_inner();
    let page = soon("history", late.message()).await.unwrap().unwrap();
    assert_eq!(page.events[0].sequence, from);
    coordinator.stop().await;
}

#[tokio::test]
async fn health_and_both_reflections_answer() {
    let coordinator = Coordinator::start().await;
    let mut health = HealthClient::new(coordinator.channel.clone());
    for service in ["", "convoke.v1.JobService", "convoke.v1.FileService", "convoke.v1.AgentService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let status = health.check(request).await.unwrap().into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{service:?}");
    }
    let mut new =
        reflection::server_reflection_client::ServerReflectionClient::new(coordinator.channel.clone());
    let list = reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(reflection::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut answers = new.server_reflection_info(tokio_stream::iter(vec![list])).await.unwrap().into_inner();
    let answer = format!("{:?}", soon("services", answers.message()).await.unwrap().unwrap());
    assert!(answer.contains("convoke.v1.JobService"), "{answer}");
    let mut old =
        old_reflection::server_reflection_client::ServerReflectionClient::new(coordinator.channel.clone());
    let list = old_reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(old_reflection::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut answers = old.server_reflection_info(tokio_stream::iter(vec![list])).await.unwrap().into_inner();
    let answer = format!("{:?}", soon("services", answers.message()).await.unwrap().unwrap());
    assert!(answer.contains("convoke.v1.JobService"), "{answer}");
    coordinator.stop().await;
}

#[tokio::test]
async fn checkpoints_and_blobs_whose_ledger_is_gone_or_empty_are_refused_and_not_swept_away() {
    for (place, kept) in [("checkpoints/j1", "1-10/rank-0"), ("blobs/ab", "cdef")] {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path());
        let kept = options.data_dir.join(place).join(kept);
        std::fs::create_dir_all(&kept).unwrap();
        std::fs::write(options.data_dir.join("ledger.redb"), "").unwrap();
        // The second start finds the ledger that the first one made.
        for _ in 0..2 {
            let serving = serve(options.clone(), std::future::pending());
            let refusal = soon("a refusal", serving).await.unwrap_err().to_string();
            assert!(refusal.contains("ledger.redb is missing or empty"), "{refusal}");
            assert!(refusal.contains(place), "{refusal}");
            assert!(kept.is_dir());
        }
    }
}

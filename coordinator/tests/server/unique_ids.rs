use std::time::Duration;

use convoke_proto::v1;
use tonic::Code;

use crate::agent::Agent;
use crate::coordinator::{Coordinator, reason, soon};

fn publish(job: &str, generation: u64, byte: u8, length: usize) -> v1::PublishUniqueIdRequest {
    v1::PublishUniqueIdRequest {
        job_id: job.to_owned(),
        generation,
        group: "world".to_owned(),
        unique_id: vec![byte; length].into(),
    }
}

fn get(job: &str, generation: u64) -> v1::GetUniqueIdRequest {
    v1::GetUniqueIdRequest { job_id: job.to_owned(), generation, group: "world".to_owned() }
}

#[tokio::test]
async fn whoever_waits_gets_exactly_the_bytes_that_were_published_first() {
    let coordinator = Coordinator::start().await;
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    let job = coordinator.submit("a").await;
    agent.run().await;
    let waiting = agent.call(get(&job.id, 1));
    let mut calls = agent.calls.clone();
    let waiting = tokio::spawn(async move { calls.get_unique_id(waiting).await });
    let put = async |message| agent.calls.clone().publish_unique_id(agent.call(message)).await;
    put(publish(&job.id, 1, 7, 128)).await.unwrap();
    let received = soon("the id", waiting).await.unwrap().unwrap().into_inner();
    assert_eq!(received.unique_id, vec![7; 128]);
    put(publish(&job.id, 1, 7, 128)).await.unwrap();
    assert_eq!(reason(put(publish(&job.id, 1, 8, 128)).await), "UNIQUE_ID_SET");
    coordinator.stop().await;
}

#[tokio::test]
async fn a_wrong_length_and_a_stale_generation_are_refused() {
    let coordinator = Coordinator::start().await;
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    let job = coordinator.submit("a").await;
    agent.run().await;
    let put = async |message| agent.calls.clone().publish_unique_id(agent.call(message)).await;
    assert_eq!(reason(put(publish(&job.id, 1, 7, 127)).await), "BAD_UNIQUE_ID");
    assert_eq!(reason(put(publish(&job.id, 0, 7, 128)).await), "STALE_GENERATION");
    let mut calls = agent.calls.clone();
    assert_eq!(reason(calls.get_unique_id(agent.call(get(&job.id, 9))).await), "STALE_GENERATION");
    coordinator.stop().await;
}

#[tokio::test]
async fn a_wait_ends_with_its_generation_or_with_its_own_deadline() {
    let coordinator = Coordinator::start().await;
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    let job = coordinator.submit("a").await;
    agent.run().await;
    let mut impatient = agent.call(get(&job.id, 1));
    impatient.set_timeout(Duration::from_millis(50));
    let status = soon("a deadline", agent.calls.clone().get_unique_id(impatient)).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    let patient = agent.call(get(&job.id, 1));
    let mut calls = agent.calls.clone();
    let patient = tokio::spawn(async move { calls.get_unique_id(patient).await });
    agent.end(1).await;
    assert_eq!(reason(soon("an end", patient).await.unwrap()), "STALE_GENERATION");
    coordinator.stop().await;
}

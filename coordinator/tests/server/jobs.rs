use convoke_proto::v1;
use convoke_proto::v1::JobState;
use tonic::Code;

use crate::agent::{Agent, lines};
use crate::coordinator::{Coordinator, eventually, reason, soon, submission};

#[tokio::test]
async fn a_job_goes_from_submit_to_success_and_its_watcher_sees_the_end() {
    let coordinator = Coordinator::start().await;
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    let job = coordinator.submit("a").await;
    let watch = v1::WatchJobRequest { job: "a".to_owned() };
    let mut watch = coordinator.jobs().watch_job(watch).await.unwrap().into_inner();
    agent.run().await;
    agent.end(0).await;
    let mut last = None;
    while let Some(change) = soon("a change", watch.message()).await.unwrap() {
        last = change.job;
    }
    let last = last.unwrap();
    assert_eq!(last.state(), JobState::Succeeded, "{last:?}");
    assert_eq!((last.id, last.generation, last.world_size), (job.id, 1, 1));
    coordinator.stop().await;
}

#[tokio::test]
async fn a_submit_that_comes_again_is_the_same_job_and_another_of_the_name_is_refused() {
    let coordinator = Coordinator::start().await;
    let first = coordinator.jobs().submit_job(submission("a", "k1")).await.unwrap().into_inner();
    let again = coordinator.jobs().submit_job(submission("a", "k1")).await.unwrap().into_inner();
    assert!(!first.already_submitted && again.already_submitted);
    assert_eq!(first.job.unwrap().id, again.job.unwrap().id);
    assert_eq!(reason(coordinator.jobs().submit_job(submission("a", "k2")).await), "NAME_TAKEN");
    let nothing = v1::SubmitJobRequest { idempotency_key: "k3".to_owned(), ..Default::default() };
    assert_eq!(reason(coordinator.jobs().submit_job(nothing).await), "INVALID_MESSAGE");
    let _agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    let mut never = v1::SubmitJobRequest { wait_for_nodes: false, ..submission("b", "k4") };
    never.spec.as_mut().unwrap().replicas = 2;
    assert_eq!(reason(coordinator.jobs().submit_job(never).await), "NEVER_FITS");
    coordinator.stop().await;
}

#[tokio::test]
async fn a_job_is_found_by_id_name_and_prefix_and_not_found_by_anything_else() {
    let coordinator = Coordinator::start().await;
    let job = coordinator.submit("alpha").await;
    for query in [job.id.as_str(), "alpha", "alp", &job.id[..8]] {
        assert_eq!(coordinator.job(query).await.id, job.id, "{query}");
    }
    let unknown = v1::GetJobRequest { job: "beta".to_owned() };
    let status = coordinator.jobs().get_job(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    coordinator.stop().await;
}

#[tokio::test]
async fn a_stopped_job_is_listed_only_when_all_are_asked_for() {
    let coordinator = Coordinator::start().await;
    coordinator.submit("a").await;
    let stop = v1::StopJobRequest { job: "a".to_owned(), grace_ms: None };
    coordinator.jobs().stop_job(stop).await.unwrap();
    eventually("the stop", async || (coordinator.job("a").await.state() == JobState::Stopped).then_some(()))
        .await;
    let list = async |all| {
        let request = v1::ListJobsRequest { all, project: String::new() };
        coordinator.jobs().list_jobs(request).await.unwrap().into_inner().jobs.len()
    };
    assert_eq!((list(false).await, list(true).await), (0, 1));
    coordinator.stop().await;
}

#[tokio::test]
async fn a_plan_says_where_or_why_not() {
    let coordinator = Coordinator::start().await;
    let plan = async |replicas| {
        let mut request = v1::PlanJobRequest { spec: submission("a", "k").spec, before: Vec::new() };
        request.spec.as_mut().unwrap().replicas = replicas;
        coordinator.jobs().plan_job(request).await.unwrap().into_inner()
    };
    let none = plan(1).await;
    assert!(none.replicas.is_empty() && none.reason.contains("no node is registered"), "{none:?}");
    let _agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    let placed = plan(1).await;
    assert_eq!((placed.replicas[0].node.as_str(), placed.world_size), ("n1", 1));
    let never = plan(2).await;
    assert!(never.replicas.is_empty() && never.never_fits && !never.reason.is_empty(), "{never:?}");
    coordinator.stop().await;
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_the_connection_goes_on() {
    let coordinator = Coordinator::start().await;
    let mut request = submission("a", "k");
    request.spec.as_mut().unwrap().environment.insert("BIG".to_owned(), "x".repeat(5 << 20));
    let status = coordinator.jobs().submit_job(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert!(status.message().contains("4194304"), "{status:?}");
    coordinator.submit("a").await;
    coordinator.stop().await;
}

#[tokio::test]
async fn a_failed_generation_is_followed_by_the_next_and_old_lines_keep_their_generation() {
    let coordinator = Coordinator::start().await;
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    let mut request = submission("a", "k");
    request.spec.as_mut().unwrap().restart.as_mut().unwrap().application = Some(1);
    let job = coordinator.jobs().submit_job(request).await.unwrap().into_inner().job.unwrap();
    assert_eq!(agent.run().await, 1);
    agent.push(lines(&job.id, 0, &["first try"], true)).await.unwrap();
    agent.end(3).await;
    assert_eq!(agent.run().await, 2);
    let job = eventually("generation 2", async || {
        Some(coordinator.job("a").await).filter(|j| j.state() == JobState::Running)
    })
    .await;
    assert_eq!((job.generation, job.restarts_application), (2, 1));
    assert_eq!(job.last_failure.unwrap().generation, 1);
    coordinator.stop().await;
}

//! kill -9 of the real process, with a job running.

use std::process::{Child, Command, Stdio};

use convoke_proto::v1;
use convoke_proto::v1::JobState;
use convoke_proto::v1::checkpoint_service_client::CheckpointServiceClient;
use convoke_proto::v1::cluster_service_client::ClusterServiceClient;
use convoke_proto::v1::job_service_client::JobServiceClient;
use tonic::transport::Channel;

use crate::agent::{Agent, hello, lines, shard};
use crate::coordinator::{connect, eventually, soon, submit};

/// Killed when the test ends, however it ends.
pub(crate) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) async fn start(dir: &std::path::Path) -> (Process, Channel) {
    start_with(dir, &[]).await
}

async fn start_with(dir: &std::path::Path, more: &[&std::ffi::OsStr]) -> (Process, Channel) {
    let _ = std::fs::remove_file(dir.join("address"));
    let child = Command::new(env!("CARGO_BIN_EXE_convoke"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.join("data"))
        .arg("--address-file")
        .arg(dir.join("address"))
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (Process(child), connect(dir).await)
}

async fn job(channel: &Channel) -> v1::Job {
    let request = v1::GetJobRequest { job: "a".to_owned() };
    JobServiceClient::new(channel.clone()).get_job(request).await.unwrap().into_inner().job.unwrap()
}

async fn log_texts(channel: &Channel) -> Vec<String> {
    let request = v1::StreamLogsRequest { job: "a".to_owned(), ..Default::default() };
    let mut stream = JobServiceClient::new(channel.clone()).stream_logs(request).await.unwrap().into_inner();
    let mut texts = Vec::new();
    while let Some(message) = soon("log lines", stream.message()).await.unwrap() {
        texts.extend(message.lines.into_iter().map(|line| line.text));
    }
    texts
}

async fn event_count(channel: &Channel) -> usize {
    let request = v1::StreamEventsRequest::default();
    let mut stream =
        ClusterServiceClient::new(channel.clone()).stream_events(request).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(page) = soon("history", stream.message()).await.unwrap() {
        count += page.events.len();
    }
    count
}

#[tokio::test]
async fn after_kill_9_everything_acknowledged_is_there_and_the_running_job_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (process, channel) = start(dir.path()).await;
    let mut agent = Agent::connect(channel.clone(), "n1").await;
    let submitted = submit(channel.clone(), "a").await;
    agent.run().await;
    eventually("running", async || (job(&channel).await.state() == JobState::Running).then_some(())).await;
    let printed = ["hello", r#"{"step": 1, "loss": 0.5}"#];
    agent.push(lines(&submitted.id, 0, &printed, false)).await.unwrap();
    let (header, body) = shard(&submitted.id, 1, 10, &[("model", "weights")]);
    agent.upload(header, &body).await.unwrap();
    let before = event_count(&channel).await;
    drop(process);

    let (_process, channel) = start(dir.path()).await;
    let found = job(&channel).await;
    assert_eq!((found.state(), found.generation), (JobState::Running, 1), "{found:?}");
    assert_eq!(found.id, submitted.id);
    assert_eq!(log_texts(&channel).await, printed);
    assert!(event_count(&channel).await >= before);
    let request = v1::ListCheckpointsRequest { job: "a".to_owned() };
    let listed = CheckpointServiceClient::new(channel.clone()).list_checkpoints(request).await.unwrap();
    assert_eq!(listed.into_inner().checkpoints[0].state(), v1::CheckpointState::Complete);
    let nodes = ClusterServiceClient::new(channel.clone()).list_nodes(v1::ListNodesRequest {}).await.unwrap();
    assert_eq!(nodes.into_inner().nodes[0].state(), v1::NodeState::Unknown);

    let back = v1::Hello { cluster_id: agent.welcome.cluster_id.clone(), ..hello("n1", "n1-instance") };
    let welcomed = agent.welcome.epoch;
    let mut agent = Agent::connect_as(channel.clone(), back).await.unwrap();
    assert_eq!(agent.welcome.epoch, welcomed + 1);
    agent.report_running().await;
    agent.push(lines(&submitted.id, 0, &[printed[0], printed[1], "bye"], true)).await.unwrap();
    assert_eq!(log_texts(&channel).await, [printed[0], printed[1], "bye"]);
    agent.end(0).await;
    let done =
        eventually("the end", async || Some(job(&channel).await).filter(|j| j.state().is_final())).await;
    assert_eq!((done.state(), done.generation), (JobState::Succeeded, 1), "{done:?}");
}

#[tokio::test]
async fn jobs_that_were_acknowledged_survive_a_kill_9_in_the_middle_of_a_stream_of_submits() {
    let dir = tempfile::tempdir().unwrap();
    let (process, channel) = start(dir.path()).await;
    let (told, mut acknowledged) = tokio::sync::mpsc::channel(64);
    let submitter = tokio::spawn(async move {
        let mut jobs = JobServiceClient::new(channel);
        for n in 0..1_000 {
            let request = crate::coordinator::submission(&format!("job-{n}"), &format!("key-{n}"));
            let Ok(answer) = jobs.submit_job(request).await else { return };
            let _ = told.send(answer.into_inner().job.unwrap().id).await;
        }
    });
    let mut known = Vec::new();
    while known.len() < 20 {
        known.push(soon("a submit", acknowledged.recv()).await.unwrap());
    }
    drop(process);
    while let Some(id) = soon("the rest", acknowledged.recv()).await {
        known.push(id);
    }
    submitter.await.unwrap();

    let (_process, channel) = start(dir.path()).await;
    let request = v1::ListJobsRequest { all: true, project: String::new() };
    let listed = JobServiceClient::new(channel).list_jobs(request).await.unwrap().into_inner().jobs;
    let listed: std::collections::BTreeSet<_> = listed.into_iter().map(|job| job.id).collect();
    let lost: Vec<_> = known.iter().filter(|id| !listed.contains(*id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

#[tokio::test]
async fn a_coordinator_ends_when_the_holder_of_its_lifeline_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lifeline");
    let holder = std::fs::File::create(&path).unwrap();
    holder.lock().unwrap();
    let (mut process, channel) = start_with(dir.path(), &["--lifeline".as_ref(), path.as_os_str()]).await;
    submit(channel, "a").await;
    assert!(process.0.try_wait().unwrap().is_none(), "it must live as long as the lock is held");
    drop(holder);
    eventually("its end", async || process.0.try_wait().unwrap()).await;
}

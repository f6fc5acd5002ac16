//! What stories ask of the coordinator, through its public API.

use std::sync::atomic::{AtomicU64, Ordering};

use convoke_proto::v1;
use convoke_proto::v1::checkpoint_service_client::CheckpointServiceClient;
use convoke_proto::v1::cluster_service_client::ClusterServiceClient;
use convoke_proto::v1::job_service_client::JobServiceClient;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::spec::Job;
use crate::{DEADLINE, LocalCluster, eventually};

/// The stable reason of a refusal; empty if it has none.
pub fn reason(status: &Status) -> String {
    convoke_proto::reason(status).unwrap_or_default()
}

impl LocalCluster {
    /// A connection of the story's own, for raw clients.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel())
    }

    pub fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel())
    }

    /// Submits under a key of its own.
    pub async fn try_submit(&self, job: &Job) -> Result<v1::Job, Status> {
        static SUBMITS: AtomicU64 = AtomicU64::new(1);
        let idempotency_key = format!("submit-{}", SUBMITS.fetch_add(1, Ordering::Relaxed));
        let request = v1::SubmitJobRequest { idempotency_key, spec: Some(job.spec()), ..Default::default() };
        Ok(self.jobs().submit_job(request).await?.into_inner().job.expect("an accepted job"))
    }

    /// Submits; returns the job's id.
    pub async fn submit(&self, job: &Job) -> String {
        self.try_submit(job).await.expect("the job is accepted").id
    }

    pub async fn job(&self, job: &str) -> v1::Job {
        let request = v1::GetJobRequest { job: job.to_owned() };
        self.jobs().get_job(request).await.expect("the job is known").into_inner().job.expect("a job")
    }

    /// Follows the job until `so` holds; survives restarts of the coordinator.
    ///
    /// # Panics
    /// After the deadline, and where the job ends while `so` still does not hold.
    pub async fn wait_for(&self, job: &str, what: &str, so: impl Fn(&v1::Job) -> bool) -> v1::Job {
        let mut last = None;
        let waited = tokio::time::timeout(DEADLINE, self.watch(job, &so, &mut last)).await;
        let last = || summary(last.as_ref());
        match waited {
            Ok(Some(job)) => job,
            Ok(None) => panic!("job {job} ended, and not so: {what}; {}", last()),
            Err(_) => panic!("after {DEADLINE:?}, job {job} is still not so: {what}; {}", last()),
        }
    }

    async fn watch(
        &self,
        job: &str,
        so: &impl Fn(&v1::Job) -> bool,
        last: &mut Option<v1::Job>,
    ) -> Option<v1::Job> {
        eventually("the job's end", async || {
            let request = v1::WatchJobRequest { job: job.to_owned() };
            let mut changes = self.jobs().watch_job(request).await.ok()?.into_inner();
            while let Ok(Some(change)) = changes.message().await {
                *last = change.job;
                if let Some(job) = last.as_ref().filter(|job| so(job)) {
                    return Some(Some(job.clone()));
                }
            }
            // Ended by the coordinator's end, or by the job's.
            last.as_ref().is_some_and(is_final).then_some(None)
        })
        .await
    }

    pub async fn wait_state(&self, job: &str, state: v1::JobState) -> v1::Job {
        self.wait_for(job, state.as_str_name(), |job| job.state() == state).await
    }

    /// Every line that the job printed; waits until the job has ended and its last line is there.
    pub async fn log(&self, job: &str) -> Vec<v1::LogLine> {
        let request = v1::StreamLogsRequest { job: job.to_owned(), follow: true, ..Default::default() };
        let stream = self.jobs().stream_logs(request).await.expect("the log is served").into_inner();
        let batches = collected("log", stream).await;
        batches.into_iter().flat_map(|batch| batch.lines).collect()
    }

    /// Waits until the job has printed a line that contains `text`.
    pub async fn wait_line(&self, job: &str, text: &str) -> v1::LogLine {
        eventually(&format!("job {job} has printed \"{text}\""), async || {
            self.log_so_far(job).await?.into_iter().find(|line| line.text.contains(text))
        })
        .await
    }

    /// The lines that the job has printed so far; `None` where nobody knows it.
    pub async fn log_so_far(&self, job: &str) -> Option<Vec<v1::LogLine>> {
        let request = v1::StreamLogsRequest { job: job.to_owned(), ..Default::default() };
        let stream = self.jobs().stream_logs(request).await.ok()?.into_inner();
        let batches = collected("log", stream).await;
        Some(batches.into_iter().flat_map(|batch| batch.lines).collect())
    }

    /// Every job, also those that have ended.
    pub async fn all_jobs(&self) -> Vec<v1::Job> {
        let request = v1::ListJobsRequest { all: true, project: String::new() };
        self.jobs().list_jobs(request).await.expect("jobs are listed").into_inner().jobs
    }

    /// Every metric of the job; waits until the job has ended.
    pub async fn metrics(&self, job: &str) -> Vec<v1::MetricRecord> {
        let request = v1::StreamMetricsRequest { job: job.to_owned(), follow: true, ..Default::default() };
        let stream = self.jobs().stream_metrics(request).await.expect("metrics are served").into_inner();
        let batches = collected("metrics", stream).await;
        batches.into_iter().flat_map(|batch| batch.records).collect()
    }

    /// Newest first.
    pub async fn checkpoints(&self, job: &str) -> Vec<v1::Checkpoint> {
        let request = v1::ListCheckpointsRequest { job: job.to_owned() };
        let mut client = CheckpointServiceClient::new(self.channel());
        client.list_checkpoints(request).await.expect("checkpoints are listed").into_inner().checkpoints
    }

    /// The files of the newest complete checkpoint, by rank and path.
    pub async fn pull(&self, job: &str) -> Vec<(u32, String, Vec<u8>)> {
        use v1::pull_checkpoint_response::Part;
        let request = v1::PullCheckpointRequest { job: job.to_owned(), step: None };
        let mut client = CheckpointServiceClient::new(self.channel());
        let stream = client.pull_checkpoint(request).await.expect("a checkpoint is there").into_inner();
        let mut files: Vec<(u32, String, Vec<u8>)> = Vec::new();
        for response in collected("checkpoint", stream).await {
            match response.part.expect("a part") {
                Part::Checkpoint(_) => {}
                Part::File(start) => files.push((start.rank, start.file.expect("a file").path, Vec::new())),
                Part::Data(data) => files.last_mut().expect("a file was started").2.extend(data),
            }
        }
        files
    }

    /// The job's history; all of the cluster's where `job` is empty.
    pub async fn events(&self, job: &str) -> Vec<v1::Event> {
        let request = v1::StreamEventsRequest { job: job.to_owned(), ..Default::default() };
        let stream = self.cluster().stream_events(request).await.expect("history is served").into_inner();
        let batches = collected("events", stream).await;
        batches.into_iter().flat_map(|batch| batch.events).collect()
    }

    /// The kinds of the job's history, in order.
    pub async fn event_kinds(&self, job: &str) -> Vec<String> {
        self.events(job).await.into_iter().map(|event| event.kind).collect()
    }

    pub async fn nodes(&self) -> Vec<v1::Node> {
        self.cluster().list_nodes(v1::ListNodesRequest {}).await.expect("nodes are listed").into_inner().nodes
    }

    /// The cluster's identity and limits.
    pub async fn identity(&self) -> v1::GetClusterResponse {
        self.cluster().get_cluster(v1::GetClusterRequest {}).await.expect("it answers").into_inner()
    }

    /// Waits until an agent's node is in `state`.
    pub async fn wait_node(&self, agent: usize, state: v1::NodeState) -> v1::Node {
        let id = Self::node(agent);
        eventually(&format!("{id} is {}", state.as_str_name()), async || {
            let list = self.cluster().list_nodes(v1::ListNodesRequest {}).await.ok()?.into_inner();
            let is_it = |node: &v1::Node| node.info.as_ref().is_some_and(|info| info.id == id);
            list.nodes.into_iter().find(|node| is_it(node) && node.state() == state)
        })
        .await
    }

    pub async fn stop(&self, job: &str) {
        let request = v1::StopJobRequest { job: job.to_owned(), grace_ms: None };
        self.jobs().stop_job(request).await.expect("the job can be stopped");
    }
}

fn is_final(job: &v1::Job) -> bool {
    matches!(job.state(), v1::JobState::Succeeded | v1::JobState::Failed | v1::JobState::Stopped)
}

fn summary(job: Option<&v1::Job>) -> String {
    let Some(job) = job else { return "it was never seen".to_owned() };
    let tasks: Vec<_> = job.replicas.iter().flat_map(|r| r.tasks.iter().map(move |t| (&r.node, t))).collect();
    let tasks: Vec<_> = tasks
        .iter()
        .map(|(node, task)| {
            format!("rank {} on {node}: {} {:?}", task.rank, task.state().as_str_name(), task.exit)
        })
        .collect();
    format!(
        "it is {} (\"{}\") in generation {}, last failure {:?}; {}",
        job.state().as_str_name(),
        job.reason,
        job.generation,
        job.last_failure.as_ref().map(|f| &f.message),
        tasks.join("; ")
    )
}

/// All of a stream that ends.
async fn collected<T>(what: &str, mut stream: Streaming<T>) -> Vec<T> {
    let all = async {
        let mut items = Vec::new();
        while let Some(item) = stream.message().await.unwrap_or_else(|e| panic!("{what}: {e}")) {
            items.push(item);
        }
        items
    };
    tokio::time::timeout(DEADLINE, all).await.unwrap_or_else(|_| panic!("{what}: no end after {DEADLINE:?}"))
}

//! A coordinator in this process, and what every test needs.

use std::path::Path;
use std::time::Duration;

use convoke_coordinator::{ServeError, ServeOptions, serve};
use convoke_model::{JobName, JobSpec};
use convoke_proto::v1;
use convoke_proto::v1::checkpoint_service_client::CheckpointServiceClient;
use convoke_proto::v1::cluster_service_client::ClusterServiceClient;
use convoke_proto::v1::file_service_client::FileServiceClient;
use convoke_proto::v1::job_service_client::JobServiceClient;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

/// Above what any test needs on a busy machine; a test that waits this long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Coordinator {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) channel: Channel,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), ServeError>>,
}

/// Waits for a future, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {DEADLINE:?}"),
    }
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(value) = ask().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(what, asking).await
}

pub(crate) fn options(dir: &Path) -> ServeOptions {
    ServeOptions {
        data_dir: dir.join("data"),
        listen: "127.0.0.1:0".parse().unwrap(),
        address_file: Some(dir.join("address")),
        ..ServeOptions::default()
    }
}

/// The channel to the coordinator that wrote its address below `dir`.
pub(crate) async fn connect(dir: &Path) -> Channel {
    let file = dir.join("address");
    let address =
        eventually("the address", async || std::fs::read_to_string(&file).ok().filter(|a| !a.is_empty()));
    let url = format!("http://{}", address.await.trim());
    let endpoint = Channel::from_shared(url).unwrap();
    eventually("a connection", async || endpoint.connect().await.ok()).await
}

impl Coordinator {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), |_| {}).await
    }

    pub(crate) async fn start_in(dir: tempfile::TempDir, change: impl FnOnce(&mut ServeOptions)) -> Self {
        let mut options = options(dir.path());
        change(&mut options);
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let _ = std::fs::remove_file(dir.path().join("address"));
        let running = tokio::spawn(serve(options, shutdown));
        let channel = connect(dir.path()).await;
        Self { dir, channel, stop, running }
    }

    /// Stops it as SIGTERM does; the directory stays.
    pub(crate) async fn stop(self) -> tempfile::TempDir {
        let _ = self.stop.send(());
        drop(self.channel);
        soon("the end", self.running).await.unwrap().unwrap();
        self.dir
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    pub(crate) fn checkpoints(&self) -> CheckpointServiceClient<Channel> {
        CheckpointServiceClient::new(self.channel.clone())
    }

    pub(crate) fn files(&self) -> FileServiceClient<Channel> {
        FileServiceClient::new(self.channel.clone())
    }

    pub(crate) fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn submit(&self, name: &str) -> v1::Job {
        submit(self.channel.clone(), name).await
    }

    pub(crate) async fn job(&self, job: &str) -> v1::Job {
        let request = v1::GetJobRequest { job: job.to_owned() };
        self.jobs().get_job(request).await.unwrap().into_inner().job.unwrap()
    }
}

pub(crate) async fn submit(channel: Channel, name: &str) -> v1::Job {
    let request = submission(name, &format!("key-{name}"));
    JobServiceClient::new(channel).submit_job(request).await.unwrap().into_inner().job.unwrap()
}

pub(crate) fn submission(name: &str, key: &str) -> v1::SubmitJobRequest {
    v1::SubmitJobRequest {
        idempotency_key: key.to_owned(),
        spec: Some(spec(name).into()),
        replace: false,
        wait_for_nodes: true,
    }
}

/// One replica with one CPU slot.
pub(crate) fn spec(name: &str) -> JobSpec {
    JobSpec {
        project: "tests".to_owned(),
        ..JobSpec::processes(JobName::new(name).unwrap(), vec!["train".to_owned()])
    }
}

/// The stable reason of a refusal.
pub(crate) fn reason<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) -> String {
    let status = answer.expect_err("it must be refused");
    convoke_proto::reason(&status).unwrap_or_else(|| panic!("no reason: {status:?}"))
}

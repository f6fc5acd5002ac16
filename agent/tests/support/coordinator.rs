//! A coordinator that says what the test tells it to, and remembers what it heard.

mod files;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use convoke_model::{CheckpointRef, DesiredReplica, DesiredState, ObservedReplica, ObservedState, TaskPhase};
use convoke_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use convoke_proto::v1::control_request::Message as FromAgent;
use convoke_proto::v1::control_response::Message as ToAgent;
use convoke_proto::v1::fetch_checkpoint_response::Part as FetchPart;
use convoke_proto::v1::file_service_server::FileServiceServer;
use convoke_proto::v1::upload_checkpoint_request::Part as UploadPart;
use convoke_proto::{refusal, v1};
use convoke_transport::{Shutdown, ShutdownTrigger, serve, shutdown};
use futures::Stream;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};

use self::files::FileMemory;
use super::DEADLINE;

/// Job, generation, rank, kind.
pub type StreamId = (String, u64, u32, i32);

/// A file of a stored shard: path and content.
pub type Files = Vec<(String, Vec<u8>)>;

/// What the coordinator heard, and what it is to answer.
#[derive(Default)]
pub struct Memory {
    pub hellos: Vec<v1::Hello>,
    pub observed: Option<ObservedState>,
    pub heartbeats: u64,
    /// Refuses the next hellos.
    pub refuse_hello: Option<Status>,
    pub lines: BTreeMap<StreamId, Vec<String>>,
    pub ended: Vec<StreamId>,
    pub uploads: BTreeMap<(CheckpointRef, u32), Files>,
    pub upload_attempts: u32,
    /// Refuses uploads.
    pub refuse_upload: Option<Status>,
    pub unique_ids: BTreeMap<String, bytes::Bytes>,
    pub files: FileMemory,
}

pub struct Coordinator {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    serving: Option<(ShutdownTrigger, JoinHandle<()>)>,
}

struct Shared {
    memory: Mutex<Memory>,
    changed: watch::Sender<u64>,
    desired: watch::Sender<v1::DesiredState>,
}

#[derive(Clone)]
struct Service {
    shared: Arc<Shared>,
    stopping: Shutdown,
}

impl Coordinator {
    pub async fn start() -> Self {
        let shared = Arc::new(Shared {
            memory: Mutex::default(),
            changed: watch::Sender::new(0),
            desired: watch::Sender::new(v1::DesiredState {
                cluster_id: "c1".into(),
                epoch: 1,
                revision: 1,
                replicas: Vec::new(),
            }),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut coordinator = Self { address, shared, serving: None };
        coordinator.serve(listener);
        coordinator
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn serve(&mut self, listener: TcpListener) {
        let (trigger, stopping) = shutdown();
        let service = Service { shared: self.shared.clone(), stopping: stopping.clone() };
        let files = FileServiceServer::new(service.clone());
        let routes = Routes::new(AgentServiceServer::new(service)).add_service(files);
        let serving = tokio::spawn(async move { serve(listener, routes, stopping).await.unwrap() });
        self.serving = Some((trigger, serving));
    }

    /// Goes away, with every connection.
    pub async fn stop(&mut self) {
        let (trigger, serving) = self.serving.take().unwrap();
        trigger.begin();
        serving.await.unwrap();
    }

    /// Comes back on the same address, in the next epoch.
    pub async fn start_again(&mut self) {
        self.shared.desired.send_modify(|d| d.epoch += 1);
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }

    /// Wants exactly these replicas, in a new revision.
    pub fn want(&self, replicas: &[DesiredReplica]) {
        self.shared.desired.send_modify(|d| {
            d.revision += 1;
            d.replicas = replicas.iter().cloned().map(Into::into).collect();
        });
    }

    /// Sends a desired state as it is.
    pub fn send(&self, desired: DesiredState) {
        self.shared.desired.send_replace(desired.into());
    }

    pub fn desired(&self) -> DesiredState {
        self.shared.desired.borrow().clone().try_into().unwrap()
    }

    pub fn memory(&self) -> MutexGuard<'_, Memory> {
        self.shared.memory.lock().unwrap()
    }

    /// Changes what it will do, and wakes whoever waits for that.
    pub fn change(&self, change: impl FnOnce(&mut Memory)) {
        change(&mut self.memory());
        self.shared.changed.send_modify(|n| *n += 1);
    }

    /// Waits until `look` finds something in what was heard.
    pub async fn wait<T>(&self, what: &str, look: impl Fn(&Memory) -> Option<T>) -> T {
        let mut changed = self.shared.changed.subscribe();
        let waiting = async {
            loop {
                if let Some(found) = look(&self.memory()) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(DEADLINE, waiting).await {
            Ok(found) => found,
            Err(_) => panic!("timed out waiting for {what}; last observed: {:#?}", self.memory().observed),
        }
    }

    /// Waits until the agent reports the replica in a way that `look` takes.
    pub async fn wait_replica<T>(
        &self,
        replica: &DesiredReplica,
        what: &str,
        look: impl Fn(&ObservedReplica) -> Option<T>,
    ) -> T {
        let key = replica.key();
        self.wait(what, |m| m.observed.as_ref()?.replicas.iter().find(|r| r.key == key).and_then(&look)).await
    }

    /// Waits until every task of the replica runs; their process ids.
    pub async fn wait_running(&self, replica: &DesiredReplica) -> Vec<u32> {
        let pid = |phase: &TaskPhase| match phase {
            TaskPhase::Running { pid, .. } => Some(*pid),
            TaskPhase::Waiting | TaskPhase::Exited(_) => None,
        };
        self.wait_replica(replica, "running tasks", |r| r.tasks.iter().map(|t| pid(&t.phase)).collect()).await
    }
}

impl Service {
    fn heard<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> T {
        let value = change(&mut self.shared.memory.lock().unwrap());
        self.shared.changed.send_modify(|n| *n += 1);
        value
    }

    async fn control_loop(
        self,
        mut inbound: Streaming<v1::ControlRequest>,
        tx: mpsc::Sender<Result<v1::ControlResponse, Status>>,
    ) -> Option<()> {
        let mut desired = self.shared.desired.subscribe();
        let mut stopping = self.stopping.clone();
        let send = async |message| tx.send(Ok(v1::ControlResponse { message: Some(message) })).await.ok();
        desired.mark_changed();
        loop {
            tokio::select! {
                () = stopping.begun() => return None,
                message = inbound.message() => match message.ok()??.message? {
                    FromAgent::Hello(_) => return None,
                    // Nobody asked.
                    FromAgent::MarkersSeen(_) => return None,
                    FromAgent::Observed(observed) => {
                        let observed = ObservedState::try_from(observed).unwrap();
                        self.heard(|m| m.observed = Some(observed));
                    }
                    FromAgent::Heartbeat(v1::Heartbeat { sequence }) => {
                        self.heard(|m| m.heartbeats += 1);
                        send(ToAgent::Heartbeat(v1::HeartbeatAck { sequence })).await?;
                    }
                },
                _ = desired.changed() => {
                    let desired = desired.borrow_and_update().clone();
                    send(ToAgent::Desired(desired)).await?;
                }
            }
        }
    }

    async fn telemetry_loop(
        self,
        mut inbound: Streaming<v1::PushTelemetryRequest>,
        tx: mpsc::Sender<Result<v1::PushTelemetryResponse, Status>>,
    ) -> Option<()> {
        let mut stopping = self.stopping.clone();
        loop {
            let push = tokio::select! {
                () = stopping.begun() => return None,
                push = inbound.message() => push.ok()??,
            };
            let key = push.stream.clone()?;
            let id = (key.job_id, key.generation, key.rank, key.kind);
            let next = self.heard(|m| {
                let lines = m.lines.entry(id.clone()).or_default();
                for (i, line) in push.lines.into_iter().enumerate() {
                    if push.first_sequence as usize + i == lines.len() {
                        lines.push(line.text);
                    }
                }
                if push.end {
                    m.ended.push(id.clone());
                }
                m.lines[&id].len() as u64
            });
            let response =
                v1::PushTelemetryResponse { stream: push.stream, next_sequence: next, unwanted: false };
            tx.send(Ok(response)).await.ok()?;
        }
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Service {
    type ControlStream = Responses<v1::ControlResponse>;
    type PushTelemetryStream = Responses<v1::PushTelemetryResponse>;
    type FetchCheckpointStream = Responses<v1::FetchCheckpointResponse>;

    async fn control(
        &self,
        request: Request<Streaming<v1::ControlRequest>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.and_then(|m| m.message);
        let Some(FromAgent::Hello(hello)) = first else { return Err(Status::invalid_argument("no hello")) };
        self.heard(|m| {
            m.hellos.push(hello);
            m.refuse_hello.clone().map_or(Ok(()), Err)
        })?;
        let (tx, rx) = mpsc::channel(16);
        let (cluster_id, epoch) = {
            let desired = self.shared.desired.borrow();
            ("c1".to_owned(), desired.epoch)
        };
        let welcome = v1::Welcome { cluster_id, epoch, heartbeat_interval_ms: 100, lease_ms: 15_000 };
        tx.send(Ok(v1::ControlResponse { message: Some(ToAgent::Welcome(welcome)) })).await.unwrap();
        tokio::spawn(self.clone().control_loop(inbound, tx));
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn push_telemetry(
        &self,
        request: Request<Streaming<v1::PushTelemetryRequest>>,
    ) -> Result<Response<Self::PushTelemetryStream>, Status> {
        assert_eq!(request.metadata().get("convoke-node").unwrap(), "n1");
        let (tx, rx) = mpsc::channel(16);
        tokio::spawn(self.clone().telemetry_loop(request.into_inner(), tx));
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn report_gpus(
        &self,
        _: Request<v1::ReportGpusRequest>,
    ) -> Result<Response<v1::ReportGpusResponse>, Status> {
        Ok(Response::new(v1::ReportGpusResponse {}))
    }

    async fn publish_unique_id(
        &self,
        request: Request<v1::PublishUniqueIdRequest>,
    ) -> Result<Response<v1::PublishUniqueIdResponse>, Status> {
        let request = request.into_inner();
        self.heard(|m| match m.unique_ids.insert(request.group, request.unique_id) {
            Some(_) => Err(refusal(Code::AlreadyExists, "UNIQUE_ID_SET", "there is one already")),
            None => Ok(Response::new(v1::PublishUniqueIdResponse {})),
        })
    }

    async fn get_unique_id(
        &self,
        request: Request<v1::GetUniqueIdRequest>,
    ) -> Result<Response<v1::GetUniqueIdResponse>, Status> {
        let group = request.into_inner().group;
        let mut changed = self.shared.changed.subscribe();
        loop {
            let found = self.shared.memory.lock().unwrap().unique_ids.get(&group).cloned();
            match found {
                Some(unique_id) => return Ok(Response::new(v1::GetUniqueIdResponse { unique_id })),
                None => changed.changed().await.unwrap(),
            }
        }
    }

    async fn upload_checkpoint(
        &self,
        request: Request<Streaming<v1::UploadCheckpointRequest>>,
    ) -> Result<Response<v1::UploadCheckpointResponse>, Status> {
        self.heard(|m| {
            m.upload_attempts += 1;
            m.refuse_upload.clone().map_or(Ok(()), Err)
        })?;
        let mut inbound = request.into_inner();
        let Some(UploadPart::Header(header)) = inbound.message().await?.and_then(|m| m.part) else {
            return Err(Status::invalid_argument("no header"));
        };
        let mut body = Vec::new();
        while let Some(message) = inbound.message().await? {
            let Some(UploadPart::Data(data)) = message.part else {
                return Err(Status::invalid_argument("no data"));
            };
            body.extend_from_slice(&data);
        }
        let shard = header.shard.unwrap();
        let mut files = Vec::new();
        for file in &shard.files {
            let rest = body.split_off(file.size as usize);
            files.push((file.path.clone(), std::mem::replace(&mut body, rest)));
        }
        let reference = header.reference.unwrap().try_into().unwrap();
        self.heard(|m| m.uploads.insert((reference, shard.rank), files));
        Ok(Response::new(v1::UploadCheckpointResponse { complete: true }))
    }

    async fn fetch_checkpoint(
        &self,
        request: Request<v1::FetchCheckpointRequest>,
    ) -> Result<Response<Self::FetchCheckpointStream>, Status> {
        let reference = request.into_inner().reference.unwrap();
        let content = b"weights";
        let file = v1::ShardFile {
            path: "model.bin".into(),
            size: content.len() as u64,
            sha256: Sha256::digest(content).to_vec().into(),
        };
        let shards = vec![v1::Shard { rank: 0, files: vec![file.clone()] }];
        let checkpoint = v1::Checkpoint { reference: Some(reference), shards, ..Default::default() };
        let parts = [
            FetchPart::Checkpoint(checkpoint),
            FetchPart::File(v1::FileStart { rank: 0, file: Some(file) }),
            FetchPart::Data(bytes::Bytes::from_static(content)),
        ];
        let responses = parts.map(|part| Ok(v1::FetchCheckpointResponse { part: Some(part) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(responses))))
    }
}

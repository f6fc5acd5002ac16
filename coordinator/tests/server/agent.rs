//! An agent that does what the test says.

use bytes::Bytes;
use convoke_model::{Device, DeviceId, DeviceKind, NodeAddress, NodeId, NodeInfo, RuntimeKind};
use convoke_proto::v1;
use convoke_proto::v1::agent_service_client::AgentServiceClient;
use convoke_proto::v1::control_request::Message as FromAgent;
use convoke_proto::v1::control_response::Message as ToAgent;
use convoke_proto::v1::desired_replica::Goal;
use convoke_proto::v1::file_service_client::FileServiceClient;
use convoke_proto::v1::observed_replica::Phase;
use convoke_proto::v1::observed_task::Phase as TaskPhase;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::coordinator::{Coordinator, soon};

pub(crate) struct Agent {
    pub(crate) welcome: v1::Welcome,
    pub(crate) desired: v1::DesiredState,
    pub(crate) calls: AgentServiceClient<Channel>,
    channel: Channel,
    requests: mpsc::Sender<v1::ControlRequest>,
    answers: Streaming<v1::ControlResponse>,
    node: String,
    instance: String,
}

/// A coordinator whose job `a` runs on one node, and the job's id.
pub(crate) async fn running() -> (Coordinator, Agent, String) {
    let coordinator = Coordinator::start().await;
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    let job = coordinator.submit("a").await;
    agent.run().await;
    (coordinator, agent, job.id)
}

pub(crate) fn hello(node: &str, instance: &str) -> v1::Hello {
    let device = Device {
        id: DeviceId::new("cpu-0").unwrap(),
        index: 0,
        kind: DeviceKind::Cpu,
        model: "slot".to_owned(),
        memory: 0,
        gpu: None,
    };
    let info = NodeInfo {
        id: NodeId::new(node).unwrap(),
        hostname: node.to_owned(),
        labels: Default::default(),
        addresses: vec![NodeAddress { interface: "lo".to_owned(), address: [127, 0, 0, 1].into() }],
        devices: vec![device],
        runtimes: vec![RuntimeKind::Process],
        agent_version: "test".to_owned(),
        gpu_injection: None,
        engine: None,
        gpu_driver: None,
    };
    v1::Hello {
        protocol_version: convoke_proto::PROTOCOL_VERSION,
        node: Some(info.into()),
        instance: instance.to_owned(),
        cluster_id: String::new(),
    }
}

/// Opens a control stream with this first message.
pub(crate) async fn greet(
    channel: Channel,
    first: FromAgent,
) -> Result<(mpsc::Sender<v1::ControlRequest>, Streaming<v1::ControlResponse>), Status> {
    let (requests, sent) = mpsc::channel(16);
    requests.send(v1::ControlRequest { message: Some(first) }).await.unwrap();
    let opened = AgentServiceClient::new(channel).control(ReceiverStream::new(sent)).await?;
    Ok((requests, opened.into_inner()))
}

impl Agent {
    pub(crate) async fn connect(channel: Channel, node: &str) -> Self {
        Self::connect_as(channel, hello(node, &format!("{node}-instance"))).await.unwrap()
    }

    pub(crate) async fn connect_as(channel: Channel, hello: v1::Hello) -> Result<Self, Status> {
        let node = hello.node.clone().unwrap().id;
        let instance = hello.instance.clone();
        let (requests, mut answers) = greet(channel.clone(), FromAgent::Hello(hello)).await?;
        let ToAgent::Welcome(welcome) = next(&mut answers).await? else { panic!("no welcome first") };
        let ToAgent::Desired(desired) = next(&mut answers).await? else { panic!("no desired state second") };
        let calls = AgentServiceClient::new(channel.clone());
        Ok(Self { welcome, desired, calls, channel, requests, answers, node, instance })
    }

    /// Adds who calls.
    pub(crate) fn call<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("convoke-node", self.node.parse().unwrap());
        request.metadata_mut().insert("convoke-instance", self.instance.parse().unwrap());
        request
    }

    /// The next message, whatever it is.
    pub(crate) async fn next(&mut self) -> Result<ToAgent, Status> {
        next(&mut self.answers).await
    }

    /// How the control stream ends.
    pub(crate) async fn closed(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    /// Waits until the desired state is as `wanted` says.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&v1::DesiredState) -> bool) {
        while !wanted(&self.desired) {
            if let ToAgent::Desired(desired) = self.next().await.unwrap() {
                self.desired = desired;
            }
        }
    }

    pub(crate) async fn send(&self, message: FromAgent) {
        self.requests.send(v1::ControlRequest { message: Some(message) }).await.unwrap();
    }

    /// Reports the only desired replica in this phase, with this task.
    pub(crate) async fn report(&self, phase: Phase, task: TaskPhase) {
        let replica = &self.desired.replicas[0];
        let observed = v1::ObservedReplica {
            job_id: replica.job_id.clone(),
            generation: replica.generation,
            node_rank: 0,
            phase: Some(phase),
            tasks: vec![v1::ObservedTask { rank: 0, phase: Some(task) }],
            progress: None,
            conditions: Vec::new(),
        };
        self.report_all(vec![observed]).await;
    }

    pub(crate) async fn report_all(&self, replicas: Vec<v1::ObservedReplica>) {
        let (applied_epoch, applied_revision) = (self.desired.epoch, self.desired.revision);
        let conditions = Vec::new();
        self.send(FromAgent::Observed(v1::ObservedState {
            applied_epoch,
            applied_revision,
            replicas,
            conditions,
            device_conditions: Vec::new(),
        }))
        .await;
    }

    /// Takes the job that comes from its placement to running; returns its generation.
    pub(crate) async fn run(&mut self) -> u64 {
        self.until(|d| d.replicas.iter().any(|r| matches!(r.goal, Some(Goal::Prepared(_))))).await;
        let ready = v1::PhaseReady {
            address: "127.0.0.1".to_owned(),
            master_port: 4000,
            task_ports: vec![4001],
            ..Default::default()
        };
        self.report(Phase::Ready(ready), TaskPhase::Waiting(v1::TaskWaiting {})).await;
        self.until(|d| d.replicas.iter().any(|r| matches!(r.goal, Some(Goal::Running(_))))).await;
        self.report_running().await;
        self.desired.replicas[0].generation
    }

    pub(crate) async fn report_running(&self) {
        self.report(
            Phase::Started(v1::PhaseStarted {}),
            TaskPhase::Running(v1::TaskRunning { pid: 7, health: 0 }),
        )
        .await;
    }

    /// Reports that the task ended with this code, and waits until that is acknowledged.
    pub(crate) async fn end(&mut self, code: i32) {
        let status = Some(v1::task_exit::Status::Code(code));
        let exit = v1::TaskExit { status, at_unix_ms: 1, ..Default::default() };
        self.report(Phase::Ended(v1::PhaseEnded {}), TaskPhase::Exited(exit)).await;
        let generation = self.desired.replicas[0].generation;
        self.until(|d| d.replicas.iter().all(|r| r.generation != generation)).await;
        self.report_all(Vec::new()).await;
    }

    /// Pushes one run of lines; the answer.
    pub(crate) async fn push(
        &self,
        push: v1::PushTelemetryRequest,
    ) -> Result<v1::PushTelemetryResponse, Status> {
        let request = self.call(tokio_stream::iter(vec![push]));
        let mut answers = self.calls.clone().push_telemetry(request).await?.into_inner();
        let answer = soon("an acknowledgement", answers.message()).await?;
        Ok(answer.expect("an answer before the end"))
    }

    /// Reports files of the replica with node rank 0.
    pub(crate) async fn report_artifacts(
        &self,
        job: &str,
        generation: u64,
        artifacts: Vec<v1::Artifact>,
    ) -> Result<(), Status> {
        let job_id = job.to_owned();
        let request = v1::ReportArtifactsRequest { job_id, generation, node_rank: 0, artifacts };
        let mut files = FileServiceClient::new(self.channel.clone());
        soon("a report", files.report_artifacts(self.call(request))).await.map(drop)
    }

    pub(crate) async fn upload(
        &self,
        header: v1::CheckpointHeader,
        body: &[u8],
    ) -> Result<v1::UploadCheckpointResponse, Status> {
        use v1::upload_checkpoint_request::Part;
        let data = body.chunks(5).map(|bytes| Part::Data(Bytes::copy_from_slice(bytes)));
        let parts = std::iter::once(Part::Header(header)).chain(data);
        let messages: Vec<_> = parts.map(|part| v1::UploadCheckpointRequest { part: Some(part) }).collect();
        let call = self.call(tokio_stream::iter(messages));
        let mut calls = self.calls.clone();
        let uploaded = soon("an upload", calls.upload_checkpoint(call)).await;
        uploaded.map(tonic::Response::into_inner)
    }
}

async fn next(answers: &mut Streaming<v1::ControlResponse>) -> Result<ToAgent, Status> {
    let answer = soon("a control message", answers.message()).await?;
    Ok(answer.ok_or_else(|| Status::cancelled("the control stream ended"))?.message.expect("a message"))
}

pub(crate) fn lines(job: &str, first: u64, texts: &[&str], end: bool) -> v1::PushTelemetryRequest {
    let line = |text: &&str| v1::TelemetryLine {
        at_unix_ms: 1_700_000_000_000,
        source: v1::LogSource::Stdout.into(),
        text: (*text).to_owned(),
    };
    v1::PushTelemetryRequest {
        stream: Some(v1::StreamKey {
            job_id: job.to_owned(),
            generation: 1,
            rank: 0,
            kind: v1::StreamKind::Output.into(),
        }),
        first_sequence: first,
        lines: texts.iter().map(line).collect(),
        end,
    }
}

/// Rank 0's shard of a checkpoint, and its bytes.
pub(crate) fn shard(
    job: &str,
    generation: u64,
    step: u64,
    files: &[(&str, &str)],
) -> (v1::CheckpointHeader, Vec<u8>) {
    let file = |(path, content): &(&str, &str)| v1::ShardFile {
        path: (*path).to_owned(),
        size: content.len() as u64,
        sha256: Sha256::digest(content).to_vec().into(),
    };
    let header = v1::CheckpointHeader {
        reference: Some(v1::CheckpointRef { job_id: job.to_owned(), generation, step }),
        shard: Some(v1::Shard { rank: 0, files: files.iter().map(file).collect() }),
    };
    (header, files.iter().flat_map(|(_, content)| content.bytes()).collect())
}

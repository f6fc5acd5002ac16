//! An agent without a host: a story speaks its part of the protocol word by word.

use convoke_proto::PROTOCOL_VERSION;
use convoke_proto::v1::agent_service_client::AgentServiceClient;
use convoke_proto::v1::{self, control_request, control_response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::{DEADLINE, LocalCluster};

/// One open session of a node that only a story knows.
#[derive(Debug)]
pub struct ScriptedAgent {
    pub node: String,
    pub instance: String,
    pub welcome: v1::Welcome,
    client: AgentServiceClient<Channel>,
    pub(crate) channel: Channel,
    out: mpsc::Sender<v1::ControlRequest>,
    stream: Streaming<v1::ControlResponse>,
}

/// What a node with `slots` CPU slots says first.
pub fn hello(node: &str, instance: &str, slots: u32) -> v1::Hello {
    let device = |index| v1::Device {
        id: format!("cpu-{index}"),
        index,
        kind: v1::DeviceKind::Cpu.into(),
        model: "CPU slot".to_owned(),
        memory: 0,
        gpu: None,
    };
    v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        node: Some(v1::NodeInfo {
            id: node.to_owned(),
            hostname: node.to_owned(),
            addresses: vec![v1::NodeAddress { interface: "lo".to_owned(), address: "127.0.0.1".to_owned() }],
            devices: (0..slots).map(device).collect(),
            runtimes: vec![v1::RuntimeKind::Process.into()],
            agent_version: "scripted".to_owned(),
            ..Default::default()
        }),
        instance: instance.to_owned(),
        cluster_id: String::new(),
    }
}

impl ScriptedAgent {
    /// Opens a session; the error is the coordinator's refusal.
    pub async fn connect(cluster: &LocalCluster, hello: v1::Hello) -> Result<Self, Status> {
        let channel = convoke_transport::connect(&cluster.url()).await.expect("the coordinator answers");
        let mut client = AgentServiceClient::new(channel.clone());
        // A story sends a handful of messages.
        let (out, messages) = mpsc::channel(16);
        let node = hello.node.as_ref().map(|node| node.id.clone()).unwrap_or_default();
        let instance = hello.instance.clone();
        let first = v1::ControlRequest { message: Some(control_request::Message::Hello(hello)) };
        out.send(first).await.expect("the receiver is here");
        let mut stream = client.control(ReceiverStream::new(messages)).await?.into_inner();
        match next(&mut stream).await? {
            control_response::Message::Welcome(welcome) => {
                Ok(Self { node, instance, welcome, client, channel, out, stream })
            }
            other => panic!("the first answer is no welcome: {other:?}"),
        }
    }

    /// The next desired state.
    pub async fn desired(&mut self) -> v1::DesiredState {
        loop {
            match next(&mut self.stream).await.expect("the session goes on") {
                control_response::Message::Desired(desired) => return desired,
                control_response::Message::Heartbeat(_) => {}
                other => panic!("neither a desired state nor a heartbeat: {other:?}"),
            }
        }
    }

    /// Waits for a desired state with a replica for which `so` holds.
    pub async fn replica(&mut self, so: impl Fn(&v1::DesiredReplica) -> bool) -> v1::DesiredReplica {
        loop {
            if let Some(replica) = self.desired().await.replicas.into_iter().find(|r| so(r)) {
                return replica;
            }
        }
    }

    /// The error that ends the session.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = next(&mut self.stream).await {
                return status;
            }
        }
    }

    pub async fn send(&self, message: control_request::Message) {
        self.out.send(v1::ControlRequest { message: Some(message) }).await.expect("the session is open");
    }

    /// Reports one replica in `phase`, its one task in `task`.
    pub async fn report(
        &self,
        replica: &v1::DesiredReplica,
        phase: v1::observed_replica::Phase,
        task: v1::observed_task::Phase,
    ) {
        let placement = replica.placement.clone().unwrap_or_default();
        let observed = v1::ObservedReplica {
            job_id: replica.job_id.clone(),
            generation: replica.generation,
            node_rank: placement.node_rank,
            phase: Some(phase),
            tasks: vec![v1::ObservedTask { rank: placement.first_rank, phase: Some(task) }],
            progress: None,
            conditions: Vec::new(),
        };
        let state = v1::ObservedState { replicas: vec![observed], ..Default::default() };
        self.send(control_request::Message::Observed(state)).await;
    }

    /// Prepares and starts a replica of one task, as an honest agent would say it.
    pub async fn run(&mut self) -> v1::DesiredReplica {
        use v1::desired_replica::Goal;
        use v1::{observed_replica, observed_task};
        let replica = self.replica(|r| matches!(r.goal, Some(Goal::Prepared(_)))).await;
        let ready = v1::PhaseReady {
            address: "127.0.0.1".to_owned(),
            master_port: 1,
            task_ports: vec![2],
            ..Default::default()
        };
        let waiting = observed_task::Phase::Waiting(v1::TaskWaiting {});
        self.report(&replica, observed_replica::Phase::Ready(ready), waiting).await;
        let replica = self.replica(|r| matches!(r.goal, Some(Goal::Running(_)))).await;
        let running = observed_task::Phase::Running(v1::TaskRunning { pid: 1, health: 0 });
        self.report(&replica, observed_replica::Phase::Started(v1::PhaseStarted {}), running).await;
        replica
    }

    /// Uploads a shard as the parts say.
    pub async fn upload(
        &self,
        parts: Vec<v1::upload_checkpoint_request::Part>,
    ) -> Result<v1::UploadCheckpointResponse, Status> {
        let parts = parts.into_iter().map(|part| v1::UploadCheckpointRequest { part: Some(part) });
        let request = self.signed(tokio_stream::iter(parts.collect::<Vec<_>>()));
        Ok(self.client.clone().upload_checkpoint(request).await?.into_inner())
    }

    /// A client for calls beside the session.
    pub fn client(&self) -> AgentServiceClient<Channel> {
        self.client.clone()
    }

    /// A request that says whose it is.
    pub fn signed<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let value = |text: &str| MetadataValue::try_from(text).expect("names are ASCII");
        request.metadata_mut().insert("convoke-node", value(&self.node));
        request.metadata_mut().insert("convoke-instance", value(&self.instance));
        request
    }
}

async fn next(stream: &mut Streaming<v1::ControlResponse>) -> Result<control_response::Message, Status> {
    let answer =
        tokio::time::timeout(DEADLINE, stream.message()).await.expect("an answer within the deadline")?;
    let answer = answer.ok_or_else(|| Status::cancelled("the coordinator ended the session"))?;
    Ok(answer.message.expect("an answer says something"))
}

//! A coordinator without a ledger: a story says to a real agent what no honest coordinator would.

use std::pin::Pin;

use convoke_proto::v1::agent_service_server::{AgentService, AgentServiceServer};
use convoke_proto::v1::{self, control_request, control_response};
use convoke_transport::ShutdownTrigger;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use crate::DEADLINE;

/// Serves agents until it is dropped.
#[derive(Debug)]
pub struct ScriptedCoordinator {
    pub url: String,
    sessions: mpsc::Receiver<AgentSession>,
    _stop: ShutdownTrigger,
}

/// One agent's control stream, after its hello.
#[derive(Debug)]
pub struct AgentSession {
    pub hello: v1::Hello,
    out: mpsc::Sender<Result<v1::ControlResponse, Status>>,
    incoming: Streaming<v1::ControlRequest>,
}

impl ScriptedCoordinator {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        // A story opens a session or two.
        let (opened, sessions) = mpsc::channel(4);
        let (stop, stopping) = convoke_transport::shutdown();
        let routes = Routes::new(AgentServiceServer::new(Script { opened }));
        tokio::spawn(convoke_transport::serve(listener, routes, stopping));
        Self { url, sessions, _stop: stop }
    }

    /// The next agent's session.
    pub async fn session(&mut self) -> AgentSession {
        let session = tokio::time::timeout(DEADLINE, self.sessions.recv()).await;
        session.expect("an agent connects within the deadline").expect("the server runs")
    }
}

impl AgentSession {
    pub async fn welcome(&self, cluster: &str) {
        let welcome = v1::Welcome {
            cluster_id: cluster.to_owned(),
            epoch: 1,
            // Longer than any story: nobody acknowledges.
            heartbeat_interval_ms: 60_000,
            lease_ms: 600_000,
        };
        self.send(control_response::Message::Welcome(welcome)).await;
    }

    pub async fn desire(&self, desired: v1::DesiredState) {
        self.send(control_response::Message::Desired(desired)).await;
    }

    async fn send(&self, message: control_response::Message) {
        let response = v1::ControlResponse { message: Some(message) };
        self.out.send(Ok(response)).await.expect("the session is open");
    }

    /// Waits for an observed state for which `so` holds.
    pub async fn observed(
        &mut self,
        what: &str,
        so: impl Fn(&v1::ObservedState) -> bool,
    ) -> v1::ObservedState {
        let wait = async {
            while let Some(request) = self.incoming.message().await.expect("the session goes on") {
                if let Some(control_request::Message::Observed(state)) = request.message
                    && so(&state)
                {
                    return state;
                }
            }
            panic!("the agent ended the session before: {what}")
        };
        tokio::time::timeout(DEADLINE, wait)
            .await
            .unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
    }
}

struct Script {
    opened: mpsc::Sender<AgentSession>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Script {
    type ControlStream = Answers<v1::ControlResponse>;
    type PushTelemetryStream = Answers<v1::PushTelemetryResponse>;
    type FetchCheckpointStream = Answers<v1::FetchCheckpointResponse>;

    async fn control(
        &self,
        request: Request<Streaming<v1::ControlRequest>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.and_then(|request| request.message);
        let Some(control_request::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("no hello"));
        };
        // A story says a handful of things.
        let (out, answers) = mpsc::channel(16);
        let session = AgentSession { hello, out, incoming };
        self.opened.send(session).await.map_err(|_| Status::unavailable("the story is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    /// Takes every line.
    async fn push_telemetry(
        &self,
        request: Request<Streaming<v1::PushTelemetryRequest>>,
    ) -> Result<Response<Self::PushTelemetryStream>, Status> {
        let acknowledge = |pushed: Result<v1::PushTelemetryRequest, Status>| {
            pushed.map(|pushed| v1::PushTelemetryResponse {
                next_sequence: pushed.first_sequence + pushed.lines.len() as u64,
                stream: pushed.stream,
                unwanted: false,
            })
        };
        Ok(Response::new(Box::pin(request.into_inner().map(acknowledge))))
    }

    async fn report_gpus(
        &self,
        _: Request<v1::ReportGpusRequest>,
    ) -> Result<Response<v1::ReportGpusResponse>, Status> {
        Ok(Response::new(v1::ReportGpusResponse {}))
    }

    async fn publish_unique_id(
        &self,
        _: Request<v1::PublishUniqueIdRequest>,
    ) -> Result<Response<v1::PublishUniqueIdResponse>, Status> {
        Err(not_in_the_script())
    }

    async fn get_unique_id(
        &self,
        _: Request<v1::GetUniqueIdRequest>,
    ) -> Result<Response<v1::GetUniqueIdResponse>, Status> {
        Err(not_in_the_script())
    }

    async fn upload_checkpoint(
        &self,
        _: Request<Streaming<v1::UploadCheckpointRequest>>,
    ) -> Result<Response<v1::UploadCheckpointResponse>, Status> {
        Err(not_in_the_script())
    }

    async fn fetch_checkpoint(
        &self,
        _: Request<v1::FetchCheckpointRequest>,
    ) -> Result<Response<Self::FetchCheckpointStream>, Status> {
        Err(not_in_the_script())
    }
}

fn not_in_the_script() -> Status {
    Status::failed_precondition("the story does not say")
}

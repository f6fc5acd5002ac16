//! Connections to the coordinator other than the control stream: one for short calls, one for
//! telemetry, one for the bytes of checkpoints and files, one for sessions that reach into tasks, so that
//! no kind of traffic delays another.

use convoke_model::{AgentInstance, NodeId};
use convoke_proto::reason;
use convoke_proto::v1::agent_service_client::AgentServiceClient;
use convoke_proto::v1::file_service_client::FileServiceClient;
use convoke_proto::v1::session_service_client::SessionServiceClient;
use convoke_transport::{ConnectError, MAX_MESSAGE_BYTES, connect, is_retryable};
use tokio::sync::{Mutex, watch};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// A client whose calls say who is calling.
pub type Client = AgentServiceClient<InterceptedService<Channel, Identify>>;

/// The same for files that travel.
pub type FileClient = FileServiceClient<InterceptedService<Channel, Identify>>;

/// The same for sessions that reach into tasks.
pub type SessionClient = SessionServiceClient<InterceptedService<Channel, Identify>>;

/// Puts the node's name and the agent's instance on every call.
#[derive(Debug, Clone)]
pub struct Identify {
    node: MetadataValue<Ascii>,
    instance: MetadataValue<Ascii>,
}

/// The agent's connections; each is made when first needed and then mends itself.
#[derive(Debug)]
pub struct Link {
    url: String,
    identify: Identify,
    calls: Line,
    telemetry: Line,
    bulk: Line,
    sessions: Line,
    there: watch::Sender<bool>,
}

type Line = Mutex<Option<Channel>>;

impl Link {
    pub fn new(url: String, node: &NodeId, instance: &AgentInstance) -> Self {
        let ascii = |text: &str| MetadataValue::try_from(text).expect("identifiers are ASCII");
        let identify = Identify { node: ascii(node.as_str()), instance: ascii(instance.as_str()) };
        Self {
            url,
            identify,
            calls: Line::default(),
            telemetry: Line::default(),
            bulk: Line::default(),
            sessions: Line::default(),
            there: watch::Sender::new(true),
        }
    }

    /// Whether the control stream is there: as long as it is not, nobody waits for what these connections carry.
    pub fn there(&self) -> watch::Receiver<bool> {
        self.there.subscribe()
    }

    pub fn set_there(&self, there: bool) {
        self.there.send_if_modified(|was| std::mem::replace(was, there) != there);
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// For short calls.
    pub async fn calls(&self) -> Result<Client, ConnectError> {
        self.client(&self.calls).await
    }

    pub async fn telemetry(&self) -> Result<Client, ConnectError> {
        self.client(&self.telemetry).await
    }

    /// For checkpoint bytes.
    pub async fn bulk(&self) -> Result<Client, ConnectError> {
        self.client(&self.bulk).await
    }

    /// For files that travel.
    pub async fn files(&self) -> Result<FileClient, ConnectError> {
        let channel = self.channel(&self.bulk).await?;
        Ok(FileServiceClient::with_interceptor(channel, self.identify.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// For sessions that reach into tasks: a person's keys must not wait behind checkpoint bytes.
    pub async fn sessions(&self) -> Result<SessionClient, ConnectError> {
        let channel = self.channel(&self.sessions).await?;
        Ok(SessionServiceClient::with_interceptor(channel, self.identify.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    async fn client(&self, line: &Line) -> Result<Client, ConnectError> {
        let channel = self.channel(line).await?;
        Ok(AgentServiceClient::with_interceptor(channel, self.identify.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// The lock is held while connecting: its wait is bounded by the connect timeout, and whoever
    /// waits here could not go on anyway.
    async fn channel(&self, line: &Line) -> Result<Channel, ConnectError> {
        let mut line = line.lock().await;
        match &*line {
            Some(channel) => Ok(channel.clone()),
            None => Ok(line.insert(connect(&self.url).await?).clone()),
        }
    }
}

/// Whether the same call may succeed soon without anyone changing anything. A session that is about
/// to be opened again passes too: after a coordinator's restart these connections may be there before
/// the control stream is.
pub fn will_pass(status: &Status) -> bool {
    is_retryable(status) || reason(status).as_deref() == Some("NO_SESSION")
}

impl Interceptor for Identify {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("convoke-node", self.node.clone());
        request.metadata_mut().insert("convoke-instance", self.instance.clone());
        Ok(request)
    }
}

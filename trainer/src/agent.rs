//! The trainer's side of its agent's socket (`$CONVOKE_SOCKET`).
//!
//! Calls block, on a small runtime of our own. The agent may be away for a moment (restart,
//! upgrade), so a call is tried again until its deadline; a refusal is final at once.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use convoke_proto::v1::trainer_service_client::TrainerServiceClient;
use convoke_proto::v1::{AwaitIdRequest, JoinRequest, JoinResponse, PublishIdRequest};
use convoke_transport::is_retryable;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::collective::{Exchange, ExchangeError, UNIQUE_ID_BYTES, UniqueId};

/// An agent that restarts is back within seconds, and so is the coordinator that it asks; one that
/// is not back after this long has a problem that a person should see.
const CALL: Duration = Duration::from_secs(120);
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("cannot start the runtime for the agent's socket")]
    Runtime(#[source] std::io::Error),
    #[error(
        "no agent answers at {}: is it running? (it sets CONVOKE_SOCKET; leave that as it is)",
        .socket.display())]
    NoAgent { socket: PathBuf, source: convoke_transport::ConnectError },
    #[error("{call} at {}: {}: is the agent running?", .socket.display(), .status.message())]
    Unreachable { call: &'static str, socket: PathBuf, status: Box<Status> },
    #[error("{call} was refused by the agent: {}", .status.message())]
    Refused { call: &'static str, status: Box<Status> },
}

/// A connection to the agent.
#[derive(Debug)]
pub struct Agent {
    socket: PathBuf,
    client: TrainerServiceClient<Channel>,
    runtime: tokio::runtime::Runtime,
}

impl Agent {
    /// Connects; later, a connection that breaks is made again by the next call.
    pub fn connect(socket: &Path) -> Result<Self, AgentError> {
        // One worker: it answers keep-alives and carries metrics while the trainer computes.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).thread_name("convoke-agent-socket").enable_all();
        let runtime = runtime.build().map_err(AgentError::Runtime)?;
        let channel = runtime.block_on(dial(socket))?;
        Ok(Self { socket: socket.to_owned(), client: TrainerServiceClient::new(channel), runtime })
    }

    /// Who this task is.
    pub fn join(&self) -> Result<JoinResponse, AgentError> {
        let request = JoinRequest { protocol_version: convoke_proto::PROTOCOL_VERSION };
        self.call("Join", CALL, async |mut client, timeout| client.join(timed(request, timeout)).await)
    }

    pub(crate) fn client(&self) -> TrainerServiceClient<Channel> {
        self.client.clone()
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    fn call<R>(
        &self,
        call: &'static str,
        timeout: Duration,
        attempt: impl AsyncFn(TrainerServiceClient<Channel>, Duration) -> Result<Response<R>, Status>,
    ) -> Result<R, AgentError> {
        let deadline = Instant::now() + timeout;
        self.runtime.block_on(async {
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                match attempt(self.client(), left).await {
                    Ok(response) => return Ok(response.into_inner()),
                    Err(status) if is_retryable(&status) && left > PAUSE => tokio::time::sleep(PAUSE).await,
                    Err(status) if is_retryable(&status) => {
                        let (socket, status) = (self.socket.clone(), Box::new(status));
                        return Err(AgentError::Unreachable { call, socket, status });
                    }
                    Err(status) => return Err(AgentError::Refused { call, status: Box::new(status) }),
                }
            }
        })
    }
}

async fn dial(socket: &Path) -> Result<Channel, AgentError> {
    let deadline = Instant::now() + CALL;
    loop {
        match convoke_transport::connect_unix(socket).await {
            Ok(channel) => return Ok(channel),
            Err(_) if Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
            Err(source) => return Err(AgentError::NoAgent { socket: socket.to_owned(), source }),
        }
    }
}

pub(crate) fn timed<M>(message: M, timeout: Duration) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

impl Exchange for Agent {
    fn publish(&self, group: &str, id: &UniqueId) -> Result<(), ExchangeError> {
        let request = PublishIdRequest { group: group.to_owned(), unique_id: id.to_vec().into() };
        let published = self.call("PublishId", CALL, async |mut client, timeout| {
            client.publish_id(timed(request.clone(), timeout)).await
        });
        match published {
            Ok(_) => Ok(()),
            // Perhaps the first attempt got through and only its reply was lost.
            Err(AgentError::Refused { status, .. }) if status.code() == Code::AlreadyExists => {
                let there = self.fetch(group, CALL)?;
                let same = there == *id;
                if same { Ok(()) } else { Err(ExchangeError::AlreadySet { group: group.to_owned() }) }
            }
            Err(e) => Err(e.into()),
        }
    }

    fn fetch(&self, group: &str, timeout: Duration) -> Result<UniqueId, ExchangeError> {
        let request = AwaitIdRequest { group: group.to_owned() };
        let id = self.call("AwaitId", timeout, async |mut client, timeout| {
            client.await_id(timed(request.clone(), timeout)).await
        });
        match id {
            Ok(response) => <[u8; UNIQUE_ID_BYTES]>::try_from(&response.unique_id[..]).map_err(|_| {
                ExchangeError::WrongLength { group: group.to_owned(), length: response.unique_id.len() }
            }),
            Err(AgentError::Unreachable { status, .. }) if status.code() == Code::DeadlineExceeded => {
                Err(ExchangeError::Timeout { group: group.to_owned(), after: timeout })
            }
            Err(e) => Err(e.into()),
        }
    }
}

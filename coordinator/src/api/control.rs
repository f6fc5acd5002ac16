//! The control stream of one agent.
//!
//! `Hello` opens it; then the agent's reports go to the owner, and the owner's wake-ups make this
//! task send the desired state as it is by then. It ends when the agent is silent for too long, when
//! another session takes over, when the node is lost, or on shutdown.

use std::time::Duration;

use convoke_model::{AgentInstance, ClusterId, NodeInfo, ObservedState, millis};
use convoke_proto::v1::control_request::Message as FromAgent;
use convoke_proto::v1::control_response::Message as ToAgent;
use convoke_proto::{PROTOCOL_VERSION, v1};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Response, Status};

use super::outgoing::{Outgoing, Streaming, stream};
use super::{Context, refuse};
use crate::owner::Hello;
use crate::sessions::{Session, Signal};

/// How long a new stream may take to say hello.
const GREETING: Duration = Duration::from_secs(10);

type FromAgents = tonic::Streaming<v1::ControlRequest>;

/// Checks the greeting and opens the session.
pub(super) async fn open(
    context: &Context,
    mut requests: FromAgents,
) -> Result<Response<Streaming<v1::ControlResponse>>, Status> {
    let first =
        timeout(GREETING, requests.message()).await.map_err(|_| refuse::stalled("the greeting"))??;
    let Some(v1::ControlRequest { message: Some(FromAgent::Hello(hello)) }) = first else {
        return Err(refuse::bad_request("the first message of a control stream must be Hello"));
    };
    let (session, guard) = greet(context.clone(), greeting(hello)?).await?;
    tracing::info!(node = %session.node, "agent connected");
    let own = context.clone();
    Ok(stream(context, move |outgoing| async move {
        let _guard = guard;
        Control { context: own, session, outgoing }.run(requests).await
    }))
}

/// Opens the session, and takes care that it ends. In a task of its own: a caller that goes away
/// meanwhile must not leave a session that nobody serves.
async fn greet(context: Context, hello: Hello) -> Result<(Session, Ended), Status> {
    let opened = tokio::spawn(async move {
        let session = context.owner.hello(hello).await?;
        let guard = Ended { node: session.node.clone(), id: session.id, context };
        Ok((session, guard))
    });
    opened.await.map_err(|e| refuse::crashed(&e))?
}

fn greeting(hello: v1::Hello) -> Result<Hello, Status> {
    if hello.protocol_version != PROTOCOL_VERSION {
        return Err(refuse::wrong_protocol(hello.protocol_version));
    }
    let info = hello.node.ok_or_else(|| refuse::bad_request("field node of Hello is missing"))?;
    let cluster = match hello.cluster_id.as_str() {
        "" => None,
        id => Some(ClusterId::new(id).map_err(|e| refuse::bad_request(e.to_string()))?),
    };
    Ok(Hello {
        info: NodeInfo::try_from(info).map_err(refuse::invalid)?,
        instance: AgentInstance::new(&hello.instance).map_err(|e| refuse::bad_request(e.to_string()))?,
        cluster,
    })
}

/// Tells the owner when the stream's task is gone, however it went.
struct Ended {
    context: Context,
    node: convoke_model::NodeId,
    id: u64,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let (owner, node, id) = (self.context.owner.clone(), self.node.clone(), self.id);
        tracing::info!(%node, "agent's session ended");
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { owner.session_ended(node, id).await });
        }
    }
}

struct Control {
    context: Context,
    session: Session,
    outgoing: Outgoing<v1::ControlResponse>,
}

impl Control {
    async fn run(mut self, mut requests: FromAgents) -> Result<(), Status> {
        let identity = &self.context.identity;
        // Shorter than the lease: a dead connection makes the node suspect, not lost.
        let patience = identity.heartbeat() * 2;
        self.send(ToAgent::Welcome(v1::Welcome {
            cluster_id: identity.cluster.to_string(),
            epoch: identity.epoch.0,
            heartbeat_interval_ms: millis(identity.heartbeat()),
            lease_ms: millis(identity.lease),
        }))
        .await?;
        self.send_desired().await?;
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                // What has come counts before the clock: a slow moment here is not the agent's silence.
                biased;
                request = requests.message() => {
                    let Some(request) = request? else { return Ok(()) };
                    heard = Instant::now();
                    self.receive(request).await?;
                }
                changed = self.session.signal.changed() => {
                    if changed.is_err() || *self.session.signal.borrow_and_update() == Signal::Close {
                        return Err(refuse::session_closed());
                    }
                    self.send_desired().await?;
                }
                // The entry that holds the sender lives as long as the session is current.
                Some(message) = self.session.asked.recv() => self.send(message).await?,
                () = sleep_until(heard + patience) => return Err(refuse::silent()),
            }
        }
    }

    async fn receive(&self, request: v1::ControlRequest) -> Result<(), Status> {
        let (node, id) = (self.session.node.clone(), self.session.id);
        match request.message {
            Some(FromAgent::Observed(observed)) => {
                let observed = ObservedState::try_from(observed).map_err(refuse::invalid)?;
                Ok(self.context.owner.observed(node, id, observed).await?)
            }
            Some(FromAgent::Heartbeat(v1::Heartbeat { sequence })) => {
                self.context.owner.heard(node, id).await;
                self.send(ToAgent::Heartbeat(v1::HeartbeatAck { sequence })).await
            }
            Some(FromAgent::MarkersSeen(v1::MarkersSeen { question, sights })) => {
                self.context.questions.answer(question, node, sights);
                Ok(())
            }
            Some(FromAgent::Hello(_)) => Err(refuse::bad_request("Hello came twice on one control stream")),
            None => Err(refuse::bad_request("an empty message came on a control stream")),
        }
    }

    /// Sends what the node should run, as it is now.
    async fn send_desired(&self) -> Result<(), Status> {
        let node = self.session.node.clone();
        let desired = self.context.owner.read(move |core, _| core.desired(&node)).await?;
        match desired {
            Some(desired) => self.send(ToAgent::Desired(desired.into())).await,
            None => Err(refuse::session_closed()),
        }
    }

    async fn send(&self, message: ToAgent) -> Result<(), Status> {
        self.outgoing.send(v1::ControlResponse { message: Some(message) }).await
    }
}

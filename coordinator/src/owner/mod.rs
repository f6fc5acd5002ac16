//! The owner: one thread that has the core and the ledger. Everybody else holds a [`Owner`] handle.
//!
//! Per event: decide, commit, apply, reply, then act on the effects. A denied event, or one whose
//! commit failed, changes nothing. Effects are wake-ups that never block.

mod outlets;
mod run;

use convoke_core::{AlreadySo, Core, Denied, Event};
use convoke_model::{AgentInstance, JobId, NodeId, ObservedState, Timestamp};
use tokio::sync::{mpsc, oneshot};

use crate::ledger::LedgerError;
use crate::sessions::Session;

pub(crate) use outlets::{Garbage, Outlets, Watchers};
pub(crate) use run::{OwnerThread, StartError};

/// Requests that may wait. At a millisecond each, the last of a full queue waits a second, which is
/// within every caller's deadline; callers wait for a place, so a burst slows its senders down.
const QUEUE: usize = 1_000;

/// Why an event was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("this session was replaced by a newer one of the same agent")]
    Superseded,
    #[error("the coordinator is shutting down; try again")]
    Closed,
}

/// What became of an event that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Accepted {
    Changed,
    AlreadySo(AlreadySo),
}

/// A look at the state.
type View = Box<dyn FnOnce(&Core, Timestamp) + Send>;

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refused>>;

pub(crate) enum Request {
    Decide { event: Box<Event>, reply: Reply<Accepted> },
    Read(View),
    Hello { hello: Box<Hello>, reply: Reply<Session> },
    Observed { node: NodeId, session: u64, observed: Box<ObservedState>, reply: Reply<()> },
    Heard { node: NodeId, session: u64 },
    SessionEnded { node: NodeId, session: u64 },
    Stop,
}

/// An agent's greeting.
#[derive(Debug)]
pub(crate) struct Hello {
    pub(crate) info: convoke_model::NodeInfo,
    pub(crate) instance: AgentInstance,
    pub(crate) cluster: Option<convoke_model::ClusterId>,
}

/// Handle to the owner; cheap to clone.
#[derive(Clone)]
pub(crate) struct Owner {
    requests: mpsc::Sender<Request>,
}

impl Owner {
    /// Decides an event and makes it durable.
    pub(crate) async fn decide(&self, event: Event) -> Result<Accepted, Refused> {
        self.ask(|reply| Request::Decide { event: Box::new(event), reply }).await
    }

    /// Reads the state as it is now.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        view: impl FnOnce(&Core, Timestamp) -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let (reply, answer) = oneshot::channel();
        let read = Request::Read(Box::new(move |core, now| {
            // A reader that went away needs no answer.
            let _ = reply.send(view(core, now));
        }));
        self.requests.send(read).await.map_err(|_| Refused::Closed)?;
        answer.await.map_err(|_| Refused::Closed)
    }

    /// The job that a person means: its id, its name, or a unique prefix of either.
    pub(crate) async fn find_job(&self, query: &str) -> Result<JobId, Refused> {
        let query = query.to_owned();
        Ok(self.read(move |core, _| core.find_job(&query)).await??)
    }

    /// Registers the agent and opens its session; an older one of the same agent is closed.
    pub(crate) async fn hello(&self, hello: Hello) -> Result<Session, Refused> {
        self.ask(|reply| Request::Hello { hello: Box::new(hello), reply }).await
    }

    /// A session's report.
    pub(crate) async fn observed(
        &self,
        node: NodeId,
        session: u64,
        observed: ObservedState,
    ) -> Result<(), Refused> {
        self.ask(|reply| Request::Observed { node, session, observed: Box::new(observed), reply }).await
    }

    /// A session's sign of life.
    pub(crate) async fn heard(&self, node: NodeId, session: u64) {
        // Without an owner there is nobody left to tell.
        let _ = self.requests.send(Request::Heard { node, session }).await;
    }

    pub(crate) async fn session_ended(&self, node: NodeId, session: u64) {
        let _ = self.requests.send(Request::SessionEnded { node, session }).await;
    }

    /// Ends the owner once what was asked before is done.
    pub(crate) async fn stop(&self) {
        let _ = self.requests.send(Request::Stop).await;
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refused> {
        let (reply, answer) = oneshot::channel();
        // Both waits end with the owner, which answers each request within a disk write.
        self.requests.send(request(reply)).await.map_err(|_| Refused::Closed)?;
        answer.await.map_err(|_| Refused::Closed)?
    }
}

#[cfg(test)]
mod tests;

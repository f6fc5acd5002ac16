//! The control stream: dial, say hello, then desired states in and observed states out, for as long
//! as the agent lives.
//!
//! A connection that breaks, or on which heartbeats are not acknowledged, is dialled again with
//! growing pauses. A refusal that no retry can mend ends the session with its reason, unless tasks
//! run: they keep their agent, which then retries slowly.

mod stream;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use convoke_model::{NodeInfo, ObservedState, TaskPhase};
use convoke_transport::{Backoff, Shutdown};
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tracing::{error, info, warn};

use crate::conditions::Conditions;
use crate::files::sight::Sight;
use crate::ledger::Identity;
use crate::link::Link;
use crate::reconciler::Incoming;
use crate::tunnel::Tunnels;

/// Pause after a refusal that only a person can end.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// Everything a session needs.
pub struct Session {
    pub url: String,
    /// Said in the hello; when it changes, the session says hello again.
    pub info: watch::Receiver<NodeInfo>,
    pub identity: Identity,
    /// Where the identity is kept.
    pub agent_file: PathBuf,
    pub conditions: Conditions,
    pub observed: watch::Receiver<ObservedState>,
    /// To the reconciler. It is never long in taking one.
    pub inbox: mpsc::Sender<Incoming>,
    pub tunnels: Tunnels,
    /// Says whether the node sees a directory of a submitter's.
    pub sight: Sight,
    /// Told whether the coordinator is there.
    pub link: Arc<Link>,
    /// What was logged of the failures since the last connection: an outage of an hour is one line,
    /// not thousands.
    pub said: String,
}

/// Why the agent cannot belong to this coordinator.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    #[error("the coordinator refused this agent's protocol version: {0}; install the version that it runs")]
    WrongProtocol(String),
    #[error(
        "the coordinator belongs to another cluster: {0}; check --coordinator, or give the agent another \
         --state-dir to join it"
    )]
    WrongCluster(String),
}

/// How one connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Connect(#[from] convoke_transport::ConnectError),
    #[error("the coordinator refused: {}", .0.message())]
    Refused(Box<Status>),
    #[error("something answers there, but it is no Convoke coordinator ({0}); check --coordinator")]
    Stranger(String),
    #[error("the stream broke: {0}")]
    Broken(String),
    #[error("the coordinator did not answer for {0:?}")]
    Silent(Duration),
    #[error(transparent)]
    Fatal(#[from] Fatal),
    #[error("the node has changed and is registered anew")]
    Changed,
    #[error("the agent is ending")]
    Ending,
}

impl Session {
    /// Runs until `shutdown` begins, or until the coordinator refuses this agent for good.
    pub async fn run(mut self, mut shutdown: Shutdown) -> Result<(), Fatal> {
        let mut backoff = Backoff::default();
        self.link.set_there(false);
        while !shutdown.has_begun() {
            let lost = self.connection(&mut shutdown, &mut backoff).await;
            self.link.set_there(false);
            if matches!(lost, Lost::Ending) {
                break;
            }
            let message = lost.to_string();
            if message != self.said {
                self.say(&lost);
                self.said = message;
            }
            let slowly = match lost {
                Lost::Fatal(fatal) if !self.has_live_tasks() => return Err(fatal),
                Lost::Fatal(_) | Lost::Refused(_) | Lost::Stranger(_) => true,
                Lost::Connect(_) | Lost::Broken(_) | Lost::Silent(_) | Lost::Changed | Lost::Ending => false,
            };
            let pause = async {
                if slowly { tokio::time::sleep(REFUSED_PAUSE).await } else { backoff.pause().await }
            };
            tokio::select! {
                () = pause => {}
                () = shutdown.begun() => break,
            }
        }
        Ok(())
    }

    fn say(&self, lost: &Lost) {
        match lost {
            Lost::Fatal(fatal) => error!("{fatal}. Running tasks go on"),
            Lost::Refused(status) => {
                let reason = convoke_proto::reason(status).unwrap_or_else(|| status.code().to_string());
                error!(reason, "{lost}; trying again every {} s", REFUSED_PAUSE.as_secs());
            }
            Lost::Stranger(_) => {
                error!(coordinator = self.url, "{lost}; trying again every {} s", REFUSED_PAUSE.as_secs());
            }
            Lost::Connect(_) | Lost::Broken(_) | Lost::Silent(_) => {
                warn!(coordinator = self.url, "{lost}; running tasks go on, trying again");
            }
            Lost::Changed | Lost::Ending => info!("{lost}"),
        }
    }

    fn has_live_tasks(&self) -> bool {
        let observed = self.observed.borrow();
        let mut tasks = observed.replicas.iter().flat_map(|r| &r.tasks);
        tasks.any(|t| matches!(t.phase, TaskPhase::Running { .. }))
    }
}

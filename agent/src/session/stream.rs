//! One connection of a session, from the dial to its loss.

use std::time::Duration;

use convoke_model::{ClusterId, DesiredState};
use convoke_proto::v1::agent_service_client::AgentServiceClient;
use convoke_proto::v1::control_request::Message as Request;
use convoke_proto::v1::control_response::Message as Response;
use convoke_proto::{PROTOCOL_VERSION, v1};
use convoke_transport::{Backoff, MAX_MESSAGE_BYTES, Shutdown, connect, is_retryable, is_stranger};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::{info, warn};

use super::{Fatal, Lost, Session};
use crate::files::sight::Answers;
use crate::ledger;
use crate::reconciler::Incoming;

/// How long the coordinator may take to answer a hello; it commits the node to its ledger first.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages that were made and not yet sent. Observed states replace each other, so more would only
/// make them older; a full queue is a stuck connection, which the heartbeats find out.
const OUTBOX: usize = 4;
/// Bounds on the coordinator's choice of heartbeat interval.
const HEARTBEAT: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(60);

/// Answers that wait to be sent; the coordinator asks one question with each submit.
const ANSWERS: usize = 16;

type Outbox = mpsc::Sender<v1::ControlRequest>;

/// What the coordinator's welcome said.
struct Terms {
    heartbeat: Duration,
    /// Silence for this long is a lost connection.
    patience: Duration,
}

impl Session {
    /// Returns how the connection ended; it never ends well.
    pub(super) async fn connection(&mut self, shutdown: &mut Shutdown, backoff: &mut Backoff) -> Lost {
        let dialled = tokio::select! {
            dialled = self.dial() => dialled,
            () = shutdown.begun() => return Lost::Ending,
        };
        let (outbox, mut inbound, terms) = match dialled {
            Ok(dialled) => dialled,
            Err(lost) => return lost,
        };
        backoff.reset();
        self.said.clear();
        self.link.set_there(true);
        info!(coordinator = self.url, node = %self.info.borrow().id, "connected");
        match self.converse(&outbox, &mut inbound, &terms, shutdown).await {
            Ok(()) => Lost::Ending,
            Err(lost) => lost,
        }
    }

    async fn dial(&mut self) -> Result<(Outbox, Streaming<v1::ControlResponse>, Terms), Lost> {
        let channel = connect(&self.url).await?;
        let mut client = AgentServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (outbox, rx) = mpsc::channel(OUTBOX);
        let hello = v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            node: Some(self.info.borrow_and_update().clone().into()),
            instance: self.identity.instance.to_string(),
            cluster_id: self.identity.cluster.as_ref().map(ToString::to_string).unwrap_or_default(),
        };
        send(&outbox, Request::Hello(hello), WELCOME_TIMEOUT).await?;
        let silent = |_| Lost::Silent(WELCOME_TIMEOUT);
        let opening = client.control(ReceiverStream::new(rx));
        let mut inbound =
            timeout(WELCOME_TIMEOUT, opening).await.map_err(silent)?.map_err(stranger_or_lost)?.into_inner();
        let first =
            timeout(WELCOME_TIMEOUT, inbound.message()).await.map_err(silent)?.map_err(stranger_or_lost)?;
        let Some(Response::Welcome(welcome)) = first.and_then(|r| r.message) else {
            return Err(Lost::Broken("the coordinator's first message was not a welcome".to_owned()));
        };
        let terms = self.welcomed(&welcome)?;
        Ok((outbox, inbound, terms))
    }

    /// Joins the cluster at the first welcome; later ones must come from the same.
    fn welcomed(&mut self, welcome: &v1::Welcome) -> Result<Terms, Lost> {
        let cluster: ClusterId =
            welcome.cluster_id.parse().map_err(|e| Lost::Broken(format!("bad welcome: {e}")))?;
        match &self.identity.cluster {
            Some(own) if *own != cluster => {
                let message = format!("this node belongs to {own}, the coordinator to {cluster}");
                return Err(Fatal::WrongCluster(message).into());
            }
            Some(_) => {}
            None => {
                self.identity.cluster = Some(cluster);
                if let Err(error) = ledger::write(&self.agent_file, &self.identity) {
                    self.identity.cluster = None;
                    return Err(Lost::Broken(error.to_string()));
                }
            }
        }
        let heartbeat =
            Duration::from_millis(welcome.heartbeat_interval_ms).clamp(*HEARTBEAT.start(), *HEARTBEAT.end());
        let patience = (Duration::from_millis(welcome.lease_ms) / 2).max(2 * heartbeat);
        Ok(Terms { heartbeat, patience })
    }

    async fn converse(
        &mut self,
        outbox: &Outbox,
        inbound: &mut Streaming<v1::ControlResponse>,
        terms: &Terms,
        shutdown: &mut Shutdown,
    ) -> Result<(), Lost> {
        let mut beat = interval(terms.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sequence = 0;
        let mut heard = Instant::now();
        // What was asked on an earlier connection waits for no answer any more.
        let (answers, mut answered) = mpsc::channel(ANSWERS);
        self.observed.mark_changed();
        loop {
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                message = inbound.message() => {
                    heard = Instant::now();
                    match message.map_err(lost)? {
                        Some(v1::ControlResponse { message: Some(message) }) => self.take(message, &answers).await?,
                        Some(_) => warn!("the coordinator sent an empty message"),
                        None => return Err(Lost::Broken("the coordinator closed it".to_owned())),
                    }
                }
                changed = self.observed.changed() => {
                    if changed.is_err() { return Ok(()) }
                    let observed = self.observed.borrow_and_update().clone();
                    send(outbox, Request::Observed(observed.into()), terms.patience).await?;
                }
                Some(seen) = answered.recv() => {
                    send(outbox, Request::MarkersSeen(seen), terms.patience).await?;
                }
                // Without a container engine nothing changes, and nobody would say so.
                Ok(()) = self.info.changed() => return Err(Lost::Changed),
                _ = beat.tick() => {
                    if heard.elapsed() > terms.patience { return Err(Lost::Silent(terms.patience)) }
                    sequence += 1;
                    send(outbox, Request::Heartbeat(v1::Heartbeat { sequence }), terms.patience).await?;
                }
            }
        }
    }

    async fn take(&mut self, message: Response, answers: &Answers) -> Result<(), Lost> {
        match message {
            Response::Desired(desired) => match DesiredState::try_from(desired) {
                Ok(desired) => {
                    self.conditions.clear("InvalidDesiredState", "");
                    let own = self.identity.cluster.clone().ok_or(Lost::Ending)?;
                    self.inbox.send(Incoming { own, desired }).await.map_err(|_| Lost::Ending)?;
                }
                Err(error) => self.conditions.raise(
                    "InvalidDesiredState",
                    "",
                    format!("the coordinator sent a desired state that this agent cannot read: {error}; everything keeps running. Are both of the same version?"),
                ),
            },
            // Any message shows that the coordinator is there; the sequence is for its own use.
            Response::Heartbeat(_) => {}
            Response::Welcome(_) => warn!("the coordinator sent a second welcome"),
            Response::OpenTunnel(tunnel) => self.tunnels.open(tunnel),
            Response::LookForMarkers(question) => self.sight.answer(question, answers.clone()),
        }
        Ok(())
    }
}

async fn send(outbox: &Outbox, message: Request, patience: Duration) -> Result<(), Lost> {
    let message = v1::ControlRequest { message: Some(message) };
    match timeout(patience, outbox.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Lost::Broken("the coordinator closed it".to_owned())),
        Err(_) => Err(Lost::Silent(patience)),
    }
}

/// Of a connection on which nothing was heard before.
fn stranger_or_lost(status: Status) -> Lost {
    if convoke_proto::reason(&status).is_none() && is_stranger(&status) {
        return Lost::Stranger(status.message().to_owned());
    }
    lost(status)
}

fn lost(status: Status) -> Lost {
    match convoke_proto::reason(&status).as_deref() {
        Some("WRONG_PROTOCOL") => Fatal::WrongProtocol(status.message().to_owned()).into(),
        Some("WRONG_CLUSTER") => Fatal::WrongCluster(status.message().to_owned()).into(),
        // It is ending, or did not keep up: it, or its successor, may answer at once.
        Some(_) if matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) => {
            Lost::Broken(status.message().to_owned())
        }
        Some(_) => Lost::Refused(Box::new(status)),
        None if is_retryable(&status) => Lost::Broken(status.message().to_owned()),
        None if status.code() == Code::Ok => Lost::Broken("the coordinator closed it".to_owned()),
        None => Lost::Refused(Box::new(status)),
    }
}

#[cfg(test)]
mod tests {
    use convoke_proto::refusal;

    use super::*;

    #[test]
    fn a_coordinator_that_is_ending_is_dialled_again_at_once_and_one_that_refuses_is_not() {
        let ending = refusal(Code::Unavailable, "SHUTTING_DOWN", "the coordinator is shutting down");
        assert!(matches!(lost(ending), Lost::Broken(_)));
        let refused = refusal(Code::AlreadyExists, "NODE_TAKEN", "another agent holds the name");
        assert!(matches!(lost(refused), Lost::Refused(_)));
    }
}

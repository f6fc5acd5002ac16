//! The coordinator as a command sees it: one address, which may be away for a while.
//!
//! States: answering, away (retried with growing pauses, said once, given up after `patience`). A
//! coordinator that cannot be connected to at first is not waited for, nor what is none. A refusal is an answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use convoke_proto::v1::checkpoint_service_client::CheckpointServiceClient;
use convoke_proto::v1::cluster_service_client::ClusterServiceClient;
use convoke_proto::v1::file_service_client::FileServiceClient;
use convoke_proto::v1::job_service_client::JobServiceClient;
use convoke_proto::v1::session_service_client::SessionServiceClient;
use convoke_transport::{Backoff, ConnectError, Sent};
use tokio::sync::OnceCell;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::failure::{Failure, exit, root_cause};
use super::text;

/// How long one call that returns one answer may take.
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// Clients of the public API on one connection.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) jobs: JobServiceClient<Channel>,
    pub(crate) checkpoints: CheckpointServiceClient<Channel>,
    pub(crate) cluster: ClusterServiceClient<Channel>,
    pub(crate) sessions: SessionServiceClient<Channel>,
    pub(crate) files: FileServiceClient<Channel>,
}

/// Tells the user that the coordinator went away or came back.
pub(crate) type Say = Box<dyn Fn(&str) + Send + Sync>;

pub(crate) struct Link {
    url: String,
    clients: Clients,
    /// A connection of its own for files, so that gigabytes never delay what is said about them.
    bulk: OnceCell<(Channel, Sent)>,
    patience: Duration,
    /// Since when it has been away; `None` while it answers.
    away: Mutex<Option<Instant>>,
    /// It has answered something.
    met: AtomicBool,
    say: Say,
}

impl Link {
    /// Connects, once.
    pub(crate) async fn connect(url: &str, patience: Duration, say: Say) -> Result<Self, Failure> {
        let channel = convoke_transport::connect(url).await.map_err(|error| match &error {
            ConnectError::BadUrl { .. } => {
                Failure::usage(error.to_string()).hint("give it with --coordinator or CONVOKE_COORDINATOR")
            }
            ConnectError::Unreachable { source, .. } => unreachable(url, &root_cause(source)),
        })?;
        Ok(Self::over(channel, url, patience, say))
    }

    fn over(channel: Channel, url: &str, patience: Duration, say: Say) -> Self {
        let clients = Clients {
            jobs: JobServiceClient::new(channel.clone()),
            checkpoints: CheckpointServiceClient::new(channel.clone()),
            cluster: ClusterServiceClient::new(channel.clone()),
            sessions: SessionServiceClient::new(channel.clone()),
            files: FileServiceClient::new(channel),
        };
        let (bulk, away, met) = (OnceCell::new(), Mutex::new(None), AtomicBool::new(false));
        Self { url: url.to_owned(), clients, bulk, patience, away, met, say }
    }

    pub(crate) fn clients(&self) -> Clients {
        self.clients.clone()
    }

    /// For the bytes of files, and how many of them have left.
    pub(crate) async fn bulk(&self) -> Result<(FileServiceClient<Channel>, Sent), Status> {
        let connect = || async {
            let gone = |error: ConnectError| Status::unavailable(root_cause(&error));
            convoke_transport::connect_counted(&self.url).await.map_err(gone)
        };
        let (channel, sent) = self.bulk.get_or_try_init(connect).await?.clone();
        Ok((FileServiceClient::new(channel), sent))
    }

    /// How long the coordinator may be away.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// One call with one answer. Tried again while the coordinator is away, so `send` must be safe
    /// to repeat.
    pub(crate) async fn call<R, T, F, Fut>(&self, request: R, send: F) -> Result<T, Failure>
    where
        R: Clone,
        F: Fn(Clients, Request<R>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut backoff = Backoff::default();
        loop {
            let mut request = Request::new(request.clone());
            request.set_timeout(CALL_DEADLINE);
            match send(self.clients(), request).await {
                Ok(response) => {
                    self.answered();
                    return Ok(response.into_inner());
                }
                Err(status) => self.failed(status, &mut backoff).await?,
            }
        }
    }

    /// Notes an answer; says so where the coordinator had been away.
    pub(crate) fn answered(&self) {
        let met = self.met.swap(true, Ordering::Relaxed);
        let before = self.away().take();
        if let Some(since) = before.filter(|_| met) {
            (self.say)(&format!("the coordinator is back after {}", text::short(since.elapsed())));
        }
    }

    /// After a failed try: pauses and returns when another one makes sense.
    pub(crate) async fn failed(&self, status: Status, backoff: &mut Backoff) -> Result<(), Failure> {
        if !is_away(&status) {
            self.answered();
            return Err(status.into());
        }
        let (cause, met) = (root_cause(&status), self.met.load(Ordering::Relaxed));
        if !met && convoke_transport::is_stranger(&status) {
            return Err(stranger(&self.url, &cause));
        }
        if self.away_for(&cause) > self.patience {
            return Err(if met { self.gave_up(&cause) } else { unreachable(&self.url, &cause) });
        }
        backoff.pause().await;
        Ok(())
    }

    /// How long the coordinator has been away; says so the first time.
    fn away_for(&self, cause: &str) -> Duration {
        let before = {
            let mut away = self.away();
            let before = *away;
            away.get_or_insert_with(Instant::now);
            before
        };
        match before {
            Some(since) => since.elapsed(),
            None => {
                let (url, patience) = (&self.url, humantime::format_duration(self.patience));
                (self.say)(&if self.met.load(Ordering::Relaxed) {
                    format!(
                        "the coordinator at {url} went away; trying again for up to {patience} (jobs go on meanwhile)"
                    )
                } else {
                    format!("no answer from {url} ({cause}); trying again for up to {patience}")
                });
                Duration::ZERO
            }
        }
    }

    fn gave_up(&self, cause: &str) -> Failure {
        let message = format!(
            "the coordinator at {} did not come back within {}: {cause}",
            self.url,
            humantime::format_duration(self.patience)
        );
        Failure::new(exit::UNREACHABLE, "COORDINATOR_UNREACHABLE", message).hint(
            "jobs that ran go on without it; start it again with `convoke serve` on the same data directory",
        )
    }

    fn away(&self) -> MutexGuard<'_, Option<Instant>> {
        // The value is replaced whole, so that a panic elsewhere cannot have left it half written.
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unreachable(url: &str, cause: &str) -> Failure {
    Failure::new(
        exit::UNREACHABLE,
        "COORDINATOR_UNREACHABLE",
        format!("no coordinator answers at {url}: {cause}"),
    )
    .hint("start one with `convoke serve`, or name another with --coordinator URL (CONVOKE_COORDINATOR)")
}

fn stranger(url: &str, cause: &str) -> Failure {
    let message = format!("something answers at {url}, but it is no Convoke coordinator ({cause})");
    Failure::new(exit::UNREACHABLE, "NO_COORDINATOR", message)
        .hint("check the port; `convoke serve` prints the address that it listens on")
}

/// True where the coordinator, or the way to it, is gone for now. What Convoke refused on purpose
/// carries a reason.
fn is_away(status: &Status) -> bool {
    let transient = convoke_transport::is_retryable(status) || status.code() == Code::Internal;
    status.code() == Code::Unavailable || (transient && convoke_proto::reason(status).is_none())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tonic::transport::Endpoint;

    use super::*;

    fn link(patience: Duration) -> (Link, Arc<Mutex<Vec<String>>>) {
        let said = Arc::new(Mutex::new(Vec::new()));
        let sink = said.clone();
        let say: Say = Box::new(move |text| sink.lock().unwrap().push(text.to_owned()));
        let url = "http://127.0.0.1:1";
        (Link::over(Endpoint::from_static(url).connect_lazy(), url, patience, say), said)
    }

    #[tokio::test]
    async fn a_coordinator_that_does_not_answer_at_first_is_not_waited_for() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", free.local_addr().unwrap());
        drop(free);
        let connected = Link::connect(&url, Duration::from_secs(60), Box::new(|_| {})).await;
        let failure = connected.map(|_| ()).unwrap_err();
        assert_eq!(failure.exit, exit::UNREACHABLE);
        assert!(failure.message.contains(&url) && failure.message.contains("refused"), "{}", failure.message);
    }

    #[tokio::test]
    async fn something_else_that_answers_is_no_coordinator_and_never_went_away() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", server.local_addr().unwrap());
        let answering = tokio::spawn(async move {
            while let Ok((mut stream, _)) = server.accept().await {
                let answer = b"HTTP/1.0 400 Bad request\r\nConnection: close\r\n\r\nthis is a web server\r\n";
                let _ = stream.write_all(answer).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        });
        let said = Arc::new(Mutex::new(Vec::new()));
        let sink = said.clone();
        let say: Say = Box::new(move |text| sink.lock().unwrap().push(text.to_owned()));
        let link = Link::connect(&url, Duration::from_secs(60), say).await.unwrap();
        let failure = crate::cli::inspect::get(&link, "train").await.unwrap_err();
        answering.abort();
        assert_eq!((failure.exit, failure.reason.as_str()), (exit::UNREACHABLE, "NO_COORDINATOR"));
        assert!(failure.message.contains(&url), "{}", failure.message);
        assert!(said.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_absence_is_said_once_and_so_is_the_return() {
        let (link, said) = link(Duration::from_secs(60));
        link.answered();
        let mut backoff = Backoff::default();
        for _ in 0..2 {
            link.failed(Status::unknown("h2 protocol error"), &mut backoff).await.unwrap();
        }
        link.answered();
        link.answered();
        let said = said.lock().unwrap();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("went away") && said[1].contains("is back"));
    }

    #[tokio::test]
    async fn what_never_answered_has_not_gone_away() {
        let (link, said) = link(Duration::from_secs(60));
        link.failed(Status::unavailable("reset"), &mut Backoff::default()).await.unwrap();
        link.answered();
        let said = said.lock().unwrap();
        assert!(said.len() == 1 && said[0].contains("no answer") && said[0].contains("reset"), "{said:?}");
    }

    #[tokio::test]
    async fn patience_has_an_end() {
        let (link, _) = link(Duration::ZERO);
        let mut backoff = Backoff::default();
        let mut last = Ok(());
        while last.is_ok() {
            last = link.failed(Status::unavailable("refused"), &mut backoff).await;
        }
        assert_eq!(last.unwrap_err().reason, "COORDINATOR_UNREACHABLE");
    }

    #[tokio::test]
    async fn a_refusal_is_an_answer() {
        let (link, said) = link(Duration::from_secs(60));
        let status = convoke_proto::refusal(Code::Internal, "LEDGER_FULL", "no space");
        let failure = link.failed(status, &mut Backoff::default()).await.unwrap_err();
        assert_eq!(failure.exit, exit::REFUSED);
        assert!(said.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_a_usage_error() {
        for url in ["127.0.0.1:7670", "http://", "http://a b", "https://x:1"] {
            let connected = Link::connect(url, Duration::ZERO, Box::new(|_| {})).await;
            assert_eq!(connected.map(|_| ()).unwrap_err().exit, exit::USAGE, "{url}");
        }
    }
}

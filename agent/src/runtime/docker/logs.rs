//! A container's output, drained from the engine's log into the task's spool.
//!
//! While the container runs its log is followed. When it has ended the log is read once more, to its
//! end and within a deadline: a followed stream may end early, late or never, and its last lines are
//! the ones that matter most.

mod frame;
mod lines;

use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error as BollardError;
use bollard::query_parameters::{LogsOptions, LogsOptionsBuilder};
use futures::StreamExt as _;
use tokio::time::{sleep, timeout};
use tracing::warn;

use self::frame::Frame;
use self::lines::{Again, Lines};
use crate::clock::now;
use crate::engine::{Engine, EngineError};
use crate::spool::{Ends, Writer};

pub(super) use frame::time_of;

/// Frames handled at once; each has at most 16 KiB.
const CHUNK: usize = 256;
/// How far back a log is read again at first. Reading the end of a log costs the engine
/// milliseconds, reading it whole (up to a gigabyte) half a minute.
const TAIL: &str = "20000";
/// Pause before a stream is opened again that ended while its container runs.
const REOPEN: Duration = Duration::from_millis(500);
/// How long the last reading may take: a whole log of the size that engines are asked to keep, from a
/// slow disk. What comes later is given up, and the spool says so.
const LAST_READING: Duration = Duration::from_secs(120);

/// Puts one container's output into one spool, over any number of connections.
#[derive(Clone)]
pub(super) struct Drain {
    /// `None` once the spool is sealed. Locked only by blocking workers, for one chunk at a time.
    lines: Arc<Mutex<Option<Lines>>>,
}

/// Why the rest of a log is not read yet.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    #[error(transparent)]
    Away(EngineError),
    #[error(transparent)]
    Disk(#[from] io::Error),
}

/// How much of a log to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Tail,
    Whole,
}

/// How a reading ended.
enum End {
    /// At the log's end, or with its stream.
    Reached,
    Again(Again),
}

impl Drain {
    /// An empty spool for a container that is about to start.
    pub(super) fn create(dir: &Path, limit: u64) -> io::Result<Self> {
        Ok(Self::of(Some(Lines::new(Writer::create(dir, limit)?, Ends::default()))))
    }

    /// The spool of an earlier agent.
    pub(super) fn resume(dir: &Path, limit: u64) -> io::Result<Self> {
        Ok(Self::of(Writer::resume(dir, limit)?.map(|(spool, ends)| Lines::new(spool, ends))))
    }

    fn of(lines: Option<Lines>) -> Self {
        Self { lines: Arc::new(Mutex::new(lines)) }
    }

    /// Follows the log until the connection fails. Cancel-safe: what was taken is in the spool, and the
    /// next reading goes on after it.
    pub(super) async fn follow(&self, engine: &Engine, container: &str) -> BollardError {
        let mut reading = Reading::Tail;
        loop {
            reading = match self.read(engine, container, reading, true).await {
                Ok(End::Again(Again::More)) => Reading::Whole,
                Ok(End::Again(Again::Jumped)) => Reading::Tail,
                Ok(End::Reached) => {
                    sleep(REOPEN).await;
                    Reading::Tail
                }
                Err(error) => return error,
            };
        }
    }

    /// Reads what the ended container left. What the engine does not give is missed, and marked; an engine that
    /// goes away meanwhile is an error unless this is the last try, for the container and its log are there again when
    /// it is.
    pub(super) async fn read_rest(
        &self,
        engine: &Engine,
        container: &str,
        last_try: bool,
    ) -> Result<(), Unread> {
        let reading = async {
            match self.read(engine, container, Reading::Tail, false).await? {
                End::Reached => Ok(End::Reached),
                End::Again(_) => self.read(engine, container, Reading::Whole, false).await,
            }
        };
        let problem = match timeout(LAST_READING, reading).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => match engine.error("ended a container's log", error) {
                // One that is there and silent has had its time.
                error if error.is_away() && !last_try && !matches!(error, EngineError::Silent { .. }) => {
                    return Err(Unread::Away(error));
                }
                error => error.to_string(),
            },
            Err(_) => format!("the engine did not give them within {} s", LAST_READING.as_secs()),
        };
        warn!(container, "the last lines cannot be read: {problem}");
        Ok(self.remark(format!("the last lines of output are missing here: {problem}")).await?)
    }

    /// The line with which the container's init said that it could not start the command.
    pub(super) async fn init_failure(&self) -> io::Result<Option<String>> {
        Ok(self.with_lines(|lines| lines.init_failure()).await?.flatten())
    }

    /// Seals the spool as it is.
    pub(super) async fn seal(&self) -> io::Result<()> {
        self.blocking(|lines| lines.take().map_or(Ok(()), Lines::finish)).await
    }

    /// Adds a line of Convoke's own.
    pub(super) async fn remark(&self, text: String) -> io::Result<()> {
        self.with_lines(move |lines| lines.remark(now(), &text)).await.map(drop)
    }

    async fn read(
        &self,
        engine: &Engine,
        container: &str,
        reading: Reading,
        follow: bool,
    ) -> Result<End, BollardError> {
        let begun = self.with_lines(move |lines| {
            lines.read_again(reading == Reading::Whole, now());
            lines.newest()
        });
        let Some(newest) = begun.await? else { return Ok(End::Reached) };
        let options = options(reading, newest.map(|at| at.0 / 1000), follow);
        let mut chunks = pin!(engine.docker().logs(container, Some(options)).ready_chunks(CHUNK));
        while let Some(chunk) = chunks.next().await {
            let taken = self.with_lines(move |lines| take(lines, chunk)).await?;
            match taken {
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(again))) => return Ok(End::Again(again)),
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        Ok(End::Reached)
    }

    async fn with_lines<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Lines) -> T + Send + 'static,
    ) -> io::Result<Option<T>> {
        self.blocking(|lines| Ok(lines.as_mut().map(work))).await
    }

    /// A disk that hangs must not hold up the reactor.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Option<Lines>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let lines = self.lines.clone();
        let working = tokio::task::spawn_blocking(move || {
            let mut lines =
                lines.lock().map_err(|_| io::Error::other("an earlier write of lines panicked"))?;
            work(&mut lines)
        });
        working.await.map_err(io::Error::other)?
    }
}

/// Takes what the stream gave up to its first failure.
fn take(
    lines: &mut Lines,
    chunk: Vec<Result<LogOutput, BollardError>>,
) -> Result<Result<(), Again>, BollardError> {
    let mut taken = Ok(Ok(()));
    for frame in chunk {
        taken = frame.map(|output| lines.take(&Frame::of(&output, lines.last()), now()));
        if !matches!(taken, Ok(Ok(()))) {
            break;
        }
    }
    lines.flush();
    taken
}

/// `since` is the second in which the newest known line was printed.
fn options(reading: Reading, since: Option<u64>, follow: bool) -> LogsOptions {
    let options = LogsOptionsBuilder::default().follow(follow).stdout(true).stderr(true).timestamps(true);
    match (reading, since) {
        // Nothing is known yet: all of it is new.
        (_, None) => options.build(),
        (Reading::Tail, Some(_)) => options.tail(TAIL).build(),
        (Reading::Whole, Some(since)) => options.since(since.try_into().unwrap_or(i32::MAX)).build(),
    }
}

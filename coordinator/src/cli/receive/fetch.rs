//! Fetching the contents of files into a [`Writer`]: the stream's messages go to a thread that may
//! wait for the disk.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use convoke_model::{Artifact, Digest};
use convoke_proto::v1;
use convoke_proto::v1::blob_part::Part;
use convoke_transport::Backoff;
use indicatif::ProgressBar;
use tokio::sync::mpsc;
use tonic::Status;

use super::place::Place;
use super::write::{Outcome, WriteError, Writer};
use crate::cli::failure::{Failure, exit};
use crate::cli::link::Link;
use crate::cli::ship::missing;

/// Messages of up to 1 MiB between the stream and the disk: one is written while others come.
const AHEAD: usize = 4;
/// Files of one request.
const REQUEST: usize = 500;
/// How long the coordinator may take from one message to the next.
const STALLED: Duration = Duration::from_secs(60);
/// A file that comes wrong is asked for again.
const TRIES: u32 = 3;

/// A file that is to come.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) artifact: Artifact,
    pub(super) place: Place,
}

/// How a request ended.
enum End {
    Done,
    Refused(Box<Status>),
    /// What came was not what was asked for.
    Wrong(io::Error),
}

/// Fetches all of `expected`, and says what happened to each. `bar` counts bytes.
pub(super) async fn fetch(
    link: &Link,
    writer: &Arc<Mutex<Writer>>,
    expected: Vec<Expected>,
    bar: &ProgressBar,
) -> Result<Vec<(Expected, Outcome)>, Failure> {
    let mut waiting: VecDeque<Expected> = expected.into();
    let mut done = Vec::new();
    let mut backoff = Backoff::default();
    let (mut wrong, mut busy_since) = (0, None);
    while !waiting.is_empty() {
        let some: Vec<_> = waiting.iter().take(REQUEST).cloned().collect();
        let (outcomes, end) = request(link, writer, some, bar).await;
        if !outcomes.is_empty() {
            (backoff, wrong, busy_since) = (Backoff::default(), 0, None);
        }
        let arrived: Vec<_> = waiting.drain(..outcomes.len()).collect();
        done.extend(arrived.into_iter().zip(outcomes));
        let problem = match end {
            End::Done => continue,
            End::Wrong(error) => error.to_string(),
            End::Refused(status) => match convoke_proto::reason(&status).as_deref() {
                Some("UNKNOWN_BLOB" | "BLOB_DAMAGED") => {
                    done.extend(lost(link, &mut waiting).await?);
                    status.message().to_owned()
                }
                // Others fetch too, or this machine slept: no reason to say that it went away.
                Some("BUSY" | "STALLED")
                    if busy_since.get_or_insert_with(Instant::now).elapsed() < link.patience() =>
                {
                    backoff.pause().await;
                    continue;
                }
                _ => {
                    link.failed(*status, &mut backoff).await?;
                    continue;
                }
            },
        };
        wrong += 1;
        if wrong == TRIES
            && let Some(first) = waiting.pop_front()
        {
            done.push((first, Outcome::Failed(problem)));
            wrong = 0;
        }
    }
    Ok(done)
}

/// Takes out those whose content the coordinator has not any more.
async fn lost(link: &Link, waiting: &mut VecDeque<Expected>) -> Result<Vec<(Expected, Outcome)>, Failure> {
    let lost = missing(link, waiting.iter().map(|one| one.artifact.digest)).await?;
    let (gone, rest): (VecDeque<_>, _) =
        std::mem::take(waiting).into_iter().partition(|one| lost.contains(&one.artifact.digest));
    *waiting = rest;
    let say = "the coordinator does not have its content any more";
    Ok(gone.into_iter().map(|one| (one, Outcome::Failed(say.to_owned()))).collect())
}

/// One stream: what happened to the first files of `some`, as far as it went.
async fn request(
    link: &Link,
    writer: &Arc<Mutex<Writer>>,
    some: Vec<Expected>,
    bar: &ProgressBar,
) -> (Vec<Outcome>, End) {
    let digests: Vec<_> = some.iter().map(|one| one.artifact.digest).collect();
    let (sender, parts) = mpsc::channel(AHEAD);
    let writer = writer.clone();
    let settling = tokio::task::spawn_blocking(move || settle(Incoming::new(parts), &some, &writer));
    let streamed = stream(link, &digests, bar, sender).await;
    match (settling.await, streamed) {
        (Ok((outcomes, _)), Err(status)) => (outcomes, End::Refused(Box::new(status))),
        (Ok((outcomes, None)), Ok(())) => (outcomes, End::Done),
        (Ok((outcomes, Some(error))), Ok(())) => (outcomes, End::Wrong(error)),
        (Err(crashed), _) => (Vec::new(), End::Wrong(io::Error::other(crashed.to_string()))),
    }
}

/// Passes the messages of one stream on, until its end or until nobody takes them.
async fn stream(
    link: &Link,
    digests: &[Digest],
    bar: &ProgressBar,
    sender: mpsc::Sender<v1::BlobPart>,
) -> Result<(), Status> {
    let (mut client, _) = link.bulk().await?;
    let sha256 = digests.iter().map(|digest| Bytes::copy_from_slice(&digest.0)).collect();
    let stalled = |_| Status::unavailable(format!("nothing came for {STALLED:?}"));
    let call = client.fetch_blobs(v1::FetchBlobsRequest { sha256, offset: 0 });
    let mut stream = tokio::time::timeout(STALLED, call).await.map_err(stalled)??.into_inner();
    link.answered();
    while let Some(part) = tokio::time::timeout(STALLED, stream.message()).await.map_err(stalled)?? {
        if let Some(Part::Data(data)) = &part.part {
            bar.inc(data.len() as u64);
        }
        if sender.send(part).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Writes what comes; stops at the first file that does not come whole.
fn settle(
    mut incoming: Incoming,
    some: &[Expected],
    writer: &Mutex<Writer>,
) -> (Vec<Outcome>, Option<io::Error>) {
    let mut outcomes = Vec::new();
    for Expected { artifact, place } in some {
        if let Err(error) = incoming.begin(artifact.digest) {
            return (outcomes, Some(error));
        }
        // One thread at a time writes; a panic of an earlier one left no half-made state behind.
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        match writer.write(artifact, place, &mut incoming) {
            Ok(outcome) => outcomes.push(outcome),
            Err(WriteError::Local(problem)) => outcomes.push(Outcome::Failed(problem)),
            Err(WriteError::Broken(error)) => return (outcomes, Some(error)),
        }
    }
    (outcomes, None)
}

/// The content of one manifest or other small thing, in memory.
pub(super) async fn small(link: &Link, digest: Digest) -> Result<Vec<u8>, Failure> {
    let broken = |problem: String| Failure::new(exit::FAILED, "COORDINATOR", problem);
    let (sender, parts) = mpsc::channel(AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        let mut incoming = Incoming::new(parts);
        incoming.begin(digest)?;
        let mut content = Vec::new();
        incoming.read_to_end(&mut content).map(|_| content)
    });
    stream(link, &[digest], &ProgressBar::hidden(), sender).await?;
    let content = reading.await.map_err(|e| broken(e.to_string()))??;
    let found = Digest(<sha2::Sha256 as sha2::Digest>::digest(&content).into());
    if found == digest {
        Ok(content)
    } else {
        Err(broken(format!("content {digest} came with another hash")))
    }
}

/// The blobs of one stream, each read to its end.
struct Incoming {
    parts: mpsc::Receiver<v1::BlobPart>,
    part: Bytes,
    /// Of the blob begun last.
    left: u64,
}

impl Incoming {
    fn new(parts: mpsc::Receiver<v1::BlobPart>) -> Self {
        Self { parts, part: Bytes::new(), left: 0 }
    }

    /// Leaves the rest of the blob before, and comes to the next, which must be `digest`.
    fn begin(&mut self, digest: Digest) -> io::Result<()> {
        io::copy(self, &mut io::sink())?;
        match self.next()? {
            Part::Header(header) if header.sha256[..] == digest.0 => {
                self.left = header.size;
                Ok(())
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the contents did not come in order")),
        }
    }

    fn next(&mut self) -> io::Result<Part> {
        let part = self.parts.blocking_recv().and_then(|part| part.part);
        part.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended early"))
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let invalid = |problem: &str| Err(io::Error::new(io::ErrorKind::InvalidData, problem.to_owned()));
        if self.left == 0 {
            return Ok(0);
        }
        while self.part.is_empty() {
            match self.next()? {
                Part::Data(data) if data.len() as u64 <= self.left => self.part = data,
                Part::Data(_) => return invalid("more came than was announced"),
                Part::Header(_) => return invalid("less came than was announced"),
            }
        }
        let n = buffer.len().min(self.part.len());
        self.part.copy_to_slice(&mut buffer[..n]);
        self.left -= n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn digest(content: &str) -> Digest {
        Digest(Sha256::digest(content).into())
    }

    fn incoming(parts: Vec<Part>) -> Incoming {
        let (sender, receiver) = mpsc::channel(16);
        for part in parts {
            sender.try_send(v1::BlobPart { part: Some(part) }).unwrap();
        }
        Incoming::new(receiver)
    }

    fn header(content: &str) -> Part {
        let sha256 = Bytes::copy_from_slice(&digest(content).0);
        Part::Header(v1::BlobHeader { sha256, size: content.len() as u64, offset: 0 })
    }

    fn data(content: &'static str) -> Part {
        Part::Data(Bytes::from_static(content.as_bytes()))
    }

    #[test]
    fn blobs_are_read_one_by_one_and_the_rest_of_one_can_be_left() {
        let mut incoming =
            incoming(vec![header("onetwo"), data("one"), data("two"), header(""), header("x"), data("x")]);
        incoming.begin(digest("onetwo")).unwrap();
        let mut start = [0; 2];
        incoming.read_exact(&mut start).unwrap();
        incoming.begin(digest("")).unwrap();
        assert_eq!(io::read_to_string(&mut incoming).unwrap(), "");
        incoming.begin(digest("x")).unwrap();
        assert_eq!(io::read_to_string(&mut incoming).unwrap(), "x");
        assert_eq!(incoming.begin(digest("y")).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_stream_out_of_order_or_of_another_length_is_noticed() {
        let bad = |parts: Vec<Part>| {
            let mut incoming = incoming(parts);
            let read = incoming.begin(digest("one")).and_then(|()| io::read_to_string(&mut incoming));
            read.unwrap_err().kind()
        };
        assert_eq!(bad(vec![header("two"), data("two")]), io::ErrorKind::InvalidData);
        assert_eq!(bad(vec![data("one")]), io::ErrorKind::InvalidData);
        assert_eq!(bad(vec![header("one"), data("ones")]), io::ErrorKind::InvalidData);
        assert_eq!(bad(vec![header("one"), data("on"), header("x")]), io::ErrorKind::InvalidData);
        assert_eq!(bad(vec![header("one"), data("on")]), io::ErrorKind::UnexpectedEof);
    }
}

//! Operations on the ring, and what happens when one cannot be finished.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::wire::{Frame, wait};
use super::{Links, Ring};
use crate::Real;
use crate::collective::{Collective, CollectiveError, Loss};

/// Values per piece: 256 kB of f32, so that adding one piece overlaps with the transfer of the next
/// in the kernel's buffers, and buffers stay small for any model.
const PIECE: usize = 64 * 1024;
/// Rank 0 answers a report at once, or after its stall window of 2 s.
const VERDICT: Duration = Duration::from_secs(5);

/// What a rank is about to do; neighbours compare.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Operation {
    kind: Kind,
    number: u32,
    /// Bytes.
    length: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    AllReduce,
    Broadcast { root: u32 },
    Barrier,
}

impl Operation {
    fn encode(self) -> [u8; 17] {
        let (kind, root) = match self.kind {
            Kind::AllReduce => (0, 0),
            Kind::Broadcast { root } => (1, root),
            Kind::Barrier => (2, 0),
        };
        let mut out = [kind; 17];
        out[1..5].copy_from_slice(&root.to_le_bytes());
        out[5..9].copy_from_slice(&self.number.to_le_bytes());
        out[9..].copy_from_slice(&self.length.to_le_bytes());
        out
    }

    fn describe(bytes: &[u8; 17]) -> String {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (number, length) = (word(5), u64::from(word(9)) | u64::from(word(13)) << 32);
        match bytes[0] {
            0 => format!("operation {number}, all-reduce of {length} bytes"),
            1 => format!("operation {number}, broadcast of {length} bytes from rank {}", word(1)),
            2 => format!("operation {number}, barrier"),
            other => format!("an unknown operation ({other})"),
        }
    }
}

impl<T: Real> Collective<T> for Ring {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn world_size(&self) -> u32 {
        self.world_size
    }

    fn all_reduce_sum(&mut self, values: &mut [T]) -> Result<(), CollectiveError> {
        self.enter::<T>(Kind::AllReduce, values.len())?;
        for segment in values.chunks_mut(PIECE * self.world_size as usize) {
            self.reduce_segment(segment)?;
        }
        Ok(())
    }

    fn broadcast(&mut self, root: u32, values: &mut [T]) -> Result<(), CollectiveError> {
        if root >= self.world_size {
            return Err(CollectiveError::NoSuchRank { root, world_size: self.world_size });
        }
        self.enter::<T>(Kind::Broadcast { root }, values.len())?;
        if self.links.is_none() {
            return Ok(());
        }
        for piece in values.chunks_mut(PIECE) {
            if self.rank != root {
                self.transfer::<T>(&[], piece.len())?;
                take(&self.scratch, piece);
            }
            if (self.rank + 1) % self.world_size != root {
                self.transfer(piece, 0)?;
            }
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.enter::<T>(Kind::Barrier, 0)?;
        // After each round a rank has heard, by way of its neighbour, from one more.
        for _ in 1..self.world_size {
            self.transfer::<T>(&[T::zero()], 1)?;
        }
        Ok(())
    }
}

fn take<T: Real>(bytes: &[u8], values: &mut [T]) {
    for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(T::BYTES)) {
        *value = T::get(bytes);
    }
}

impl Ring {
    /// Reduce-scatter, then all-gather: part `p` is summed in the order of the ring, beginning after
    /// rank `p`, and the one sum is passed on to everybody.
    fn reduce_segment<T: Real>(&mut self, segment: &mut [T]) -> Result<(), CollectiveError> {
        let (ranks, rank) = (self.world_size as usize, self.rank as usize);
        let bound = |part: usize| segment.len() * part / ranks;
        let bounds: Vec<usize> = (0..=ranks).map(bound).collect();
        let part = |p: usize| bounds[p % ranks]..bounds[p % ranks + 1];
        for step in 1..ranks {
            let (outgoing, incoming) = (part(rank + ranks - step + 1), part(rank + ranks - step));
            self.transfer(&segment[outgoing], incoming.len())?;
            let bytes = self.scratch.chunks_exact(T::BYTES);
            for (value, bytes) in segment[incoming].iter_mut().zip(bytes) {
                *value += T::get(bytes);
            }
        }
        for step in 1..ranks {
            let (outgoing, incoming) = (part(rank + ranks - step + 2), part(rank + ranks - step + 1));
            self.transfer(&segment[outgoing], incoming.len())?;
            take(&self.scratch, &mut segment[incoming]);
        }
        Ok(())
    }

    /// Makes sure that the neighbours do the same.
    pub(super) fn enter<T: Real>(&mut self, kind: Kind, values: usize) -> Result<(), CollectiveError> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        if self.links.is_none() {
            return Ok(());
        }
        let length = (values * T::BYTES) as u64;
        let ours = Operation { kind, number: self.operations, length }.encode();
        self.operations = self.operations.wrapping_add(1);
        let mut theirs = [0; 17];
        self.duplex(&ours, &mut theirs)?;
        if ours != theirs {
            let (ours, theirs) = (Operation::describe(&ours), Operation::describe(&theirs));
            let peer = (self.rank + self.world_size - 1) % self.world_size;
            let error = CollectiveError::Mismatch { rank: self.rank, ours, peer, theirs };
            return Err(self.broken.insert(error).clone());
        }
        Ok(())
    }

    /// Sends values to the next rank while `incoming` values arrive in `scratch` from the one before.
    fn transfer<T: Real>(&mut self, outgoing: &[T], incoming: usize) -> Result<(), CollectiveError> {
        let mut outbox = std::mem::take(&mut self.outbox);
        let mut scratch = std::mem::take(&mut self.scratch);
        outbox.resize(outgoing.len() * T::BYTES, 0);
        scratch.resize(incoming * T::BYTES, 0);
        for (value, bytes) in outgoing.iter().zip(outbox.chunks_exact_mut(T::BYTES)) {
            value.put(bytes);
        }
        let result = self.duplex(&outbox, &mut scratch);
        (self.outbox, self.scratch) = (outbox, scratch);
        result
    }

    fn duplex(&mut self, send: &[u8], receive: &mut [u8]) -> Result<(), CollectiveError> {
        let Some(links) = &mut self.links else { return Ok(()) };
        let (rank, ranks, timeout) = (self.rank, self.world_size, self.timeout);
        links
            .duplex(send, receive, timeout)
            .map_err(|trouble| {
                let suspect = match trouble {
                    Trouble::Next(loss) => ((rank + 1) % ranks, loss),
                    Trouble::Previous(loss) => ((rank + ranks - 1) % ranks, loss),
                    Trouble::Verdict(frame) => return links.lost(frame, timeout),
                };
                links.accuse(suspect.0, suspect.1, timeout)
            })
            .map_err(|error| self.broken.insert(error).clone())
    }
}

/// Why a transfer stopped.
enum Trouble {
    Next(Loss),
    Previous(Loss),
    /// Rank 0 says so.
    Verdict(Frame),
}

impl Links {
    fn duplex(&mut self, send: &[u8], receive: &mut [u8], timeout: Duration) -> Result<(), Trouble> {
        let (mut sent, mut received) = (0, 0);
        let mut deadline = Instant::now() + timeout;
        while sent < send.len() || received < receive.len() {
            let moved = write_some(&self.next, &send[sent..]).map_err(|_| Trouble::Next(Loss::Gone))?;
            sent += moved;
            let read = read_some(&self.previous, &mut receive[received..]);
            let read = read.map_err(|_| Trouble::Previous(Loss::Gone))?;
            received += read;
            if moved + read > 0 {
                deadline = Instant::now() + timeout;
                continue;
            }
            self.wait(sent < send.len(), received < receive.len(), deadline, timeout)?;
        }
        Ok(())
    }

    fn wait(
        &mut self,
        sending: bool,
        receiving: bool,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<(), Trouble> {
        let mut fds = Vec::with_capacity(3);
        // A closed connection that is not needed any more would wake us for ever: only those that are.
        if sending {
            fds.push(PollFd::new(&self.next, PollFlags::OUT));
        }
        if receiving {
            fds.push(PollFd::new(&self.previous, PollFlags::IN));
        }
        if let Some(control) = &self.control {
            fds.push(PollFd::new(control, PollFlags::IN));
        }
        let stalled = if receiving { Trouble::Previous } else { Trouble::Next };
        if !wait(&mut fds, Some(deadline)).unwrap_or(false) {
            return Err(stalled(Loss::Stalled(timeout)));
        }
        let heard = self.control.is_some() && fds.last().is_some_and(|fd| !fd.revents().is_empty());
        drop(fds);
        if heard { self.hear() } else { Ok(()) }
    }

    /// Reads what rank 0 has to say.
    fn hear(&mut self) -> Result<(), Trouble> {
        let Some(control) = &self.control else { return Ok(()) };
        match Frame::receive(control, Duration::from_secs(1)) {
            Ok(Frame::Bye) => {
                self.control = None;
                Ok(())
            }
            Ok(verdict) => Err(Trouble::Verdict(verdict)),
            Err(_) => Err(Trouble::Verdict(Frame::Gone(0))),
        }
    }

    /// Reports a suspicion to rank 0, whose verdict is what every rank names.
    fn accuse(&mut self, peer: u32, loss: Loss, timeout: Duration) -> CollectiveError {
        let report = if matches!(loss, Loss::Stalled(_)) { Frame::Stalled(peer) } else { Frame::Gone(peer) };
        let Some(control) = &self.control else {
            // Rank 0 has said bye, and here is somebody who still waits.
            return self.lost(Frame::Left(0), timeout);
        };
        // A failed write shows in the read.
        let _ = report.send(control);
        let verdict = match Frame::receive(control, VERDICT) {
            Ok(Frame::Bye) => Frame::Left(0),
            Ok(verdict) => verdict,
            // No answer in time: it is rank 0 that hangs.
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Frame::Stalled(0)
            }
            Err(_) => Frame::Gone(0),
        };
        self.lost(verdict, timeout)
    }

    fn lost(&self, verdict: Frame, timeout: Duration) -> CollectiveError {
        let (rank, loss) = match verdict {
            Frame::Gone(rank) => (rank, Loss::Gone),
            Frame::Left(rank) => (rank, Loss::Left),
            Frame::Stalled(rank) => (rank, Loss::Stalled(timeout)),
            Frame::Bye => (0, Loss::Left),
        };
        // A rank that does not exist would be rank 0's invention: then it is rank 0 that is broken.
        let rank = if (rank as usize) < self.addresses.len() { rank } else { 0 };
        CollectiveError::PeerLost { rank, address: self.addresses[rank as usize], loss }
    }
}

/// Bytes moved; 0 if it would block.
fn write_some(mut to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() { Ok(0) } else { unblocked(to.write(bytes)) }
}

/// Bytes moved; 0 if it would block.
fn read_some(mut from: &TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
    if bytes.is_empty() { Ok(0) } else { unblocked(from.read(bytes)) }
}

fn unblocked(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
        other => other,
    }
}

//! Rank 0's side thread: gathers the ranks, hands out the table, then watches over them.
//!
//! Gathering: accepts one control connection per rank until the deadline; strangers are dropped, a
//! contradiction is refused by name. Watching: the first rank to vanish, or to be reported, becomes
//! the verdict that all ranks are told, so that all name the same one. Ends when rank 0 says bye,
//! when everybody has, or after a verdict.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::wire::{Frame, Hello, Nonce, Purpose, accept, send_refusal, send_table, wait};

/// The ranks notice a stall at about the same time; the one that has not reported it by then is the
/// one that hangs. Their clocks differ by as much as their steps do: well under a second.
const STALL_WINDOW: Duration = Duration::from_secs(2);

pub(super) struct Root {
    pub(super) listener: TcpListener,
    pub(super) nonce: Nonce,
    pub(super) world_size: u32,
}

impl Root {
    pub(super) fn run(self, deadline: Instant) {
        // Every member is told why; the ranks themselves report it.
        if let Some(members) = self.gather(deadline) {
            Watch { left: vec![false; members.len()], stalled: vec![None; members.len()], members }.run();
        }
    }

    /// All control connections by rank, each told the table.
    fn gather(&self, deadline: Instant) -> Option<Vec<TcpStream>> {
        let mut members: Vec<Option<(TcpStream, SocketAddr)>> = (0..self.world_size).map(|_| None).collect();
        while members.iter().any(Option::is_none) {
            let Ok(Some(stream)) = accept(&self.listener, deadline) else {
                refuse_all(&members);
                return None;
            };
            let Some(hello) = Hello::receive(&self.nonce, &stream) else { continue };
            if let Some(why) = self.objection(&hello, &members) {
                // The peer may be gone already: then nobody is left to tell.
                let _ = send_refusal(&stream, &why);
                continue;
            }
            members[hello.rank as usize] = Some((stream, hello.ring));
        }
        let (members, table): (Vec<_>, Vec<_>) = members.into_iter().flatten().unzip();
        // A member that cannot be told is seen to be gone by the watch.
        members.iter().for_each(|member| drop(send_table(member, &table)));
        Some(members)
    }

    fn objection(&self, hello: &Hello, members: &[Option<(TcpStream, SocketAddr)>]) -> Option<String> {
        let Hello { rank, world_size, purpose, .. } = hello;
        if *world_size != self.world_size {
            return Some(format!("rank {rank} counts {world_size} ranks, rank 0 {}", self.world_size));
        }
        match members.get(*rank as usize) {
            _ if *purpose != Purpose::Control => Some("not a control connection".to_owned()),
            None => Some(format!("rank {rank} of a world of {world_size}")),
            Some(Some(_)) => Some(format!("there is a rank {rank} already")),
            Some(None) => None,
        }
    }
}

fn refuse_all(members: &[Option<(TcpStream, SocketAddr)>]) {
    let missing: Vec<_> =
        (0..members.len()).filter(|&r| members[r].is_none()).map(|r| r.to_string()).collect();
    let why = format!("no connection from rank {} in time: see their logs", missing.join(", "));
    members.iter().flatten().for_each(|(stream, _)| drop(send_refusal(stream, &why)));
}

struct Watch {
    members: Vec<TcpStream>,
    /// Said bye.
    left: Vec<bool>,
    /// The peer that a rank reported as stalled.
    stalled: Vec<Option<u32>>,
}

impl Watch {
    /// Without a deadline of its own: it ends with rank 0's process, whose connection is among those
    /// it watches.
    fn run(mut self) {
        let mut window = None;
        let verdict = loop {
            if self.left[0] || self.left.iter().all(|&left| left) {
                break Frame::Bye;
            }
            match self.ready(window) {
                Err(_) => break Frame::Bye,
                Ok(ready) if ready.is_empty() => break self.hanging(),
                Ok(ready) => {
                    if let Some(verdict) = ready.into_iter().find_map(|rank| self.hear(rank)) {
                        break verdict;
                    }
                }
            }
            if self.stalled.iter().any(Option::is_some) {
                window = window.or(Some(Instant::now() + STALL_WINDOW));
            }
        };
        self.tell(verdict);
    }

    /// Ranks with something to hear; empty once the window has passed.
    fn ready(&self, window: Option<Instant>) -> io::Result<Vec<usize>> {
        let ranks: Vec<usize> = (0..self.members.len()).filter(|&r| !self.left[r]).collect();
        let mut fds: Vec<_> = ranks.iter().map(|&r| PollFd::new(&self.members[r], PollFlags::IN)).collect();
        wait(&mut fds, window)?;
        Ok(ranks.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(&r, _)| r).collect())
    }

    fn hear(&mut self, rank: usize) -> Option<Frame> {
        match Frame::receive(&self.members[rank], Duration::from_secs(1)) {
            Ok(Frame::Bye) => {
                self.left[rank] = true;
                None
            }
            Ok(Frame::Stalled(peer)) => {
                self.stalled[rank] = Some(peer);
                None
            }
            // Whoever said bye and is still waited for did not die: it left.
            Ok(Frame::Gone(peer) | Frame::Left(peer)) => {
                let left = self.left.get(peer as usize).copied().unwrap_or(false);
                Some(if left { Frame::Left(peer) } else { Frame::Gone(peer) })
            }
            Err(_) => Some(Frame::Gone(rank as u32)),
        }
    }

    /// The lowest rank that has not noticed the stall, else the peer that was first complained of.
    fn hanging(&self) -> Frame {
        let silent = self.stalled.iter().zip(&self.left).position(|(report, left)| report.is_none() && !left);
        let accused = self.stalled.iter().find_map(|report| *report);
        Frame::Stalled(silent.map_or(accused.unwrap_or(0), |rank| rank as u32))
    }

    /// Tells everybody, then hears them out: closing on unread reports could take the verdict back.
    fn tell(mut self, verdict: Frame) {
        let deadline = Instant::now() + Duration::from_secs(1);
        self.members.iter().for_each(|member| drop(verdict.send(member)));
        if verdict == Frame::Bye {
            return;
        }
        self.members.iter().for_each(|member| drop(member.shutdown(std::net::Shutdown::Write)));
        while let Ok(ready) = self.ready(Some(deadline)) {
            if ready.is_empty() {
                return;
            }
            for rank in ready {
                self.left[rank] |= Frame::receive(&self.members[rank], Duration::from_millis(100)).is_err();
            }
            if self.left.iter().all(|&left| left) {
                return;
            }
        }
    }
}

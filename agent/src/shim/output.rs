//! One of the task's output pipes, cut into lines.

use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;

use tokio::net::unix::pipe;

use crate::clock;
use crate::spool::{MAX_LINE, Source, Writer};

/// A pipe's usual capacity.
const CHUNK: usize = 64 * 1024;
/// The most that a pipe can hold for an ordinary user (`/proc/sys/fs/pipe-max-size`): what is read
/// at the end, in case somebody outside the task holds the pipe open and goes on writing.
const LAST_BYTES: usize = 1 << 20;

/// The reading end of stdout or stderr.
pub(super) struct Output {
    /// `None` once every writer is gone.
    pipe: Option<pipe::Receiver>,
    source: Source,
    /// What came after the last newline; cut at [`MAX_LINE`].
    partial: Vec<u8>,
}

impl Output {
    pub(super) fn new(pipe: PipeReader, source: Source) -> io::Result<Self> {
        let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(pipe))?;
        Ok(Self { pipe: Some(pipe), source, partial: Vec::new() })
    }

    /// Waits until there is something to read. Cancel-safe; waits for ever once closed.
    pub(super) async fn readable(&self) {
        match &self.pipe {
            // An error shows again in the read that follows.
            Some(pipe) => drop(pipe.readable().await),
            None => std::future::pending().await,
        }
    }

    /// Takes what one read gives, at most a pipe's 64 KiB.
    pub(super) fn take(&mut self, spool: &mut Writer) {
        let Some(pipe) = &self.pipe else { return };
        let mut chunk = [0; CHUNK];
        match pipe.try_read(&mut chunk) {
            Ok(0) => self.pipe = None,
            Ok(n) => {
                self.split(&chunk[..n], spool);
                spool.flush();
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.pipe = None,
        }
    }

    /// Takes what is still in the pipe when every process of the task is gone, without waiting;
    /// the last line may lack its newline.
    pub(super) fn finish(&mut self, spool: &mut Writer) {
        let mut chunk = [0; CHUNK];
        let mut taken = 0;
        // Read directly: the reactor may not have been told yet.
        while let Some(pipe) = self.pipe.as_ref().filter(|_| taken < LAST_BYTES) {
            match rustix::io::read(pipe, &mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(n) => {
                    taken += n;
                    self.split(&chunk[..n], spool);
                }
            }
        }
        self.pipe = None;
        if !self.partial.is_empty() {
            spool.push(clock::now(), self.source, &self.partial);
            self.partial.clear();
        }
    }

    fn split(&mut self, bytes: &[u8], spool: &mut Writer) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            if let Some(end) = piece.strip_suffix(b"\n") {
                self.partial.extend_from_slice(end);
                spool.push(clock::now(), self.source, &self.partial);
                self.partial.clear();
                continue;
            }
            self.partial.extend_from_slice(piece);
            while self.partial.len() > MAX_LINE {
                let cut = crate::spool::cut(&self.partial, MAX_LINE);
                spool.push(clock::now(), self.source, &self.partial[..cut]);
                self.partial.drain(..cut);
            }
        }
    }
}

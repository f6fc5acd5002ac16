//! The user's terminal while a command of a task has it.

use std::io;
use std::sync::mpsc;

use convoke_proto::TUNNEL_FRAME_BYTES;
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Raw mode: every key goes to the task, Ctrl-C too. Given back when dropped.
pub(super) struct Raw(Termios);

impl Raw {
    pub(super) fn enter() -> io::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Flush, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nothing left to do for a terminal that is gone.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.0);
    }
}

/// Rows and columns; zeros where it does not say.
pub(super) fn size() -> (u32, u32) {
    tcgetwinsize(stdin()).map_or((0, 0), |size| (size.ws_row.into(), size.ws_col.into()))
}

/// Reads standard input in a thread of its own, which a blocked read holds up until the process ends.
/// Chunks of at most a frame; the channel closes at the end of input.
pub(super) fn input() -> tokio::sync::mpsc::Receiver<Vec<u8>> {
    // One waits while one is sent.
    let (chunks, received) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = vec![0; TUNNEL_FRAME_BYTES];
        while let Ok(n @ 1..) = io::Read::read(&mut io::stdin().lock(), &mut buffer) {
            if chunks.blocking_send(buffer[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    received
}

/// A reader of chunks that another thread sends; its end is the channel's.
pub(super) struct Chunks {
    chunks: mpsc::Receiver<Vec<u8>>,
    current: io::Cursor<Vec<u8>>,
}

impl Chunks {
    pub(super) fn new(chunks: mpsc::Receiver<Vec<u8>>) -> Self {
        Self { chunks, current: io::Cursor::default() }
    }
}

impl io::Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let n = self.current.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            match self.chunks.recv() {
                Ok(chunk) => self.current = io::Cursor::new(chunk),
                Err(mpsc::RecvError) => return Ok(0),
            }
        }
    }
}

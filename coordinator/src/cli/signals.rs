//! Interrupts: what a user, a supervisor or a closing terminal sends.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// Ctrl-C, or SIGTERM.
    Stop,
    /// The terminal went away.
    Hangup,
}

pub(crate) struct Interrupts {
    int: Signal,
    term: Signal,
    hup: Signal,
    again: Option<Interrupt>,
}

impl Interrupts {
    pub(crate) fn listen() -> Result<Self, Failure> {
        Ok(Self {
            int: signal(SignalKind::interrupt())?,
            term: signal(SignalKind::terminate())?,
            hup: signal(SignalKind::hangup())?,
            again: None,
        })
    }

    /// Leaves `interrupt` to whoever waits next: they know better what it means now.
    pub(crate) fn again(&mut self, interrupt: Interrupt) {
        self.again = Some(interrupt);
    }

    /// Waits for the next one. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Interrupt {
        if let Some(interrupt) = self.again.take() {
            return interrupt;
        }
        tokio::select! {
            _ = self.int.recv() => Interrupt::Stop,
            _ = self.term.recv() => Interrupt::Stop,
            _ = self.hup.recv() => Interrupt::Hangup,
        }
    }
}

/// Runs `work` unless it is interrupted; dropping it is its clean-up.
pub(crate) async fn or_interrupted<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut interrupts = Interrupts::listen()?;
    tokio::select! {
        result = work => result,
        _ = interrupts.next() => Err(Failure::interrupted()),
    }
}

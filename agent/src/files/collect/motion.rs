//! Whether files move: what the end of a replica may wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// Counts what is read and sent. A try that only repeats what an earlier one did moves nothing: a coordinator whose
/// disk is full, or a network that breaks at the same place, holds nobody up for ever.
#[derive(Debug, Clone, Default)]
pub(crate) struct Motion(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The most bytes that one try has read, and sent, since something last arrived.
    read: AtomicU64,
    sent: AtomicU64,
    beat: watch::Sender<u64>,
}

impl Motion {
    /// So many bytes were read in this try.
    pub(crate) fn read(&self, bytes: u64) {
        self.further(&self.0.read, bytes);
    }

    /// So many bytes were sent in this try.
    pub(crate) fn sent(&self, bytes: u64) {
        self.further(&self.0.sent, bytes);
    }

    /// Something arrived; what follows counts anew.
    pub(crate) fn arrived(&self) {
        self.0.read.store(0, Ordering::Relaxed);
        self.0.sent.store(0, Ordering::Relaxed);
        self.beat();
    }

    fn further(&self, best: &AtomicU64, bytes: u64) {
        if best.fetch_max(bytes, Ordering::Relaxed) < bytes {
            self.beat();
        }
    }

    fn beat(&self) {
        self.0.beat.send_modify(|beat| *beat = beat.wrapping_add(1));
    }

    /// Resolves once nothing has moved for `patience` although the coordinator was `there`.
    pub(crate) async fn stuck(&self, mut there: watch::Receiver<bool>, patience: Duration) {
        let mut beat = self.0.beat.subscribe();
        loop {
            let is_there = *there.borrow_and_update();
            tokio::select! {
                Ok(()) = beat.changed() => {}
                Ok(()) = there.changed() => {}
                () = tokio::time::sleep(patience), if is_there => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn the_same_bytes_again_are_no_motion_until_something_arrives() {
        let motion = Motion::default();
        let mut beat = motion.0.beat.subscribe();
        let mut moved = |moving: &dyn Fn()| {
            beat.mark_unchanged();
            moving();
            beat.has_changed().unwrap()
        };
        assert!(moved(&|| motion.read(5)) && moved(&|| motion.read(6)) && moved(&|| motion.sent(5)));
        assert!(!moved(&|| motion.read(6)) && !moved(&|| motion.sent(4)));
        assert!(moved(&|| motion.arrived()));
        assert!(moved(&|| motion.read(1)) && moved(&|| motion.sent(1)));
    }

    #[tokio::test]
    async fn a_coordinator_that_is_away_costs_no_patience() {
        let (motion, there) = (Motion::default(), watch::Sender::new(false));
        let mut stuck = Box::pin(motion.stuck(there.subscribe(), Duration::ZERO));
        assert_eq!((&mut stuck).now_or_never(), None);
        there.send_replace(true);
        stuck.await;
    }
}

//! Wall-clock time that never goes back: the wall clock at the start, then the monotonic clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use convoke_model::Timestamp;
use tokio::time::Instant;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Timestamp,
    origin: Instant,
}

impl Clock {
    /// Starts at the wall clock, or at `floor` (the last time the ledger knows) if that is later:
    /// a machine whose clock was set back must not write a history that goes back.
    pub(crate) fn starting_at_least(floor: Timestamp) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let start = Timestamp(0).after(wall).max(floor);
        Self { start, origin: Instant::now() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.start.after(self.origin.elapsed())
    }

    /// When `at` is, for a timer; now if it has passed.
    pub(crate) fn instant_of(&self, at: Timestamp) -> Instant {
        // A day is as good as never, and cannot overflow an Instant.
        let wait = at.since(self.now()).min(Duration::from_secs(24 * 3600));
        // Timers may fire within the millisecond before; one more keeps `now >= at`.
        Instant::now() + wait + Duration::from_millis(u64::from(!wait.is_zero()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_does_not_go_below_the_last_known_time() {
        let far = Timestamp(u64::MAX / 2);
        assert!(Clock::starting_at_least(far).now() >= far);
        assert!(Clock::starting_at_least(Timestamp(0)).now() > Timestamp(1_600_000_000_000));
    }
}

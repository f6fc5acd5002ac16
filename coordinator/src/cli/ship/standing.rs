//! When an upload is given up: not after so many tries, and not for being slow.

use std::time::{Duration, Instant};

/// Tries that come to nothing are made for so long: a route that flaps, or a proxy that restarts, is back by then.
pub(super) const STANDS: Duration = Duration::from_secs(600);

/// Since when tries have moved next to nothing.
#[derive(Debug, Default)]
pub(super) struct Standing {
    since: Option<Instant>,
}

impl Standing {
    /// Takes in a try that failed; true if there has been none that moved anything for [`STANDS`].
    pub(super) fn is_over(&mut self, moved: bool, now: Instant) -> bool {
        if moved {
            self.since = None;
            return false;
        }
        now.duration_since(*self.since.get_or_insert(now)) >= STANDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_upload_is_never_given_up_and_one_that_stands_is_in_the_end() {
        let begun = Instant::now();
        let mut standing = Standing::default();
        let minutes = |n: u64| begun + Duration::from_secs(60 * n);
        for n in 0..100 {
            assert!(!standing.is_over(n % 9 == 0, minutes(n)), "something moved within every 9 minutes");
        }
        for n in 100..110 {
            assert!(!standing.is_over(false, minutes(n + 9)), "minute {n}");
        }
        assert!(standing.is_over(false, minutes(119)));
        assert!(!standing.is_over(true, minutes(120)), "and goes on if it moves after all");
    }
}

//! Pauses between tries: exponential, jittered, capped; the cap rises after a minute of failure, so
//! that a short restart is noticed at once and a long outage is not hammered.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// First pause.
const MIN: Duration = Duration::from_millis(50);
/// Longest pause while the failure is young: a restarted peer is found within half a second.
const EARLY_CAP: Duration = Duration::from_millis(500);
/// Longest pause later on.
const LATE_CAP: Duration = Duration::from_secs(5);
/// When the failure stops being young.
const EARLY: Duration = Duration::from_secs(60);

/// The pauses of one run of failures. [`Backoff::reset`] after a success.
#[derive(Debug)]
pub struct Backoff {
    since: Option<Instant>,
    early: ExponentialBackoff,
    late: ExponentialBackoff,
}

impl Default for Backoff {
    fn default() -> Self {
        let up_to = |min, cap| {
            ExponentialBuilder::default()
                .with_min_delay(min)
                .with_max_delay(cap)
                .without_max_times()
                .with_jitter()
                .build()
        };
        Self { since: None, early: up_to(MIN, EARLY_CAP), late: up_to(EARLY_CAP, LATE_CAP) }
    }
}

impl Backoff {
    /// The next pause, given the time now. Jitter adds up to as much again as the capped delay.
    pub fn next_pause(&mut self, now: Instant) -> Duration {
        let since = *self.since.get_or_insert(now);
        let (pauses, cap) = if now.saturating_duration_since(since) < EARLY {
            (&mut self.early, EARLY_CAP)
        } else {
            (&mut self.late, LATE_CAP)
        };
        pauses.next().unwrap_or(cap).min(cap)
    }

    /// Sleeps for the next pause.
    pub async fn pause(&mut self) {
        let pause = self.next_pause(Instant::now());
        tokio::time::sleep(pause).await;
    }

    /// A try succeeded: the next failure starts from the shortest pause.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_under_half_a_second_for_a_minute_and_under_five_later() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        assert!(backoff.next_pause(start) <= 2 * MIN);
        for _ in 0..50 {
            assert!(backoff.next_pause(start + EARLY / 2) <= EARLY_CAP);
        }
        let later: Vec<_> = (0..50).map(|_| backoff.next_pause(start + EARLY)).collect();
        assert!(later.iter().all(|p| *p <= LATE_CAP) && later.iter().any(|p| *p > EARLY_CAP));
        backoff.reset();
        assert!(backoff.next_pause(start + EARLY) <= 2 * MIN);
    }
}

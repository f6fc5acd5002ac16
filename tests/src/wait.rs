//! Waiting on values. This is the only place that lets time pass.

use std::time::{Duration, Instant};

/// How long anything may take before a test fails: far more than any of it takes, because a test
/// machine may be busy with everything else.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Pause between two looks at a value that nobody announces.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Looks until `look` finds something.
///
/// # Panics
/// After [`DEADLINE`], naming `what`.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "after {DEADLINE:?}, still not so: {what}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

//! How long the next generation waits where no budget ends a job whose generations end at once.

use convoke_model::{Timestamp, millis};

use crate::{JobRun, Phase};

/// The first pause, which doubles, and the longest.
const PAUSE_MS: (u64, u64) = (500, 60_000);
/// What ran for so long did not end at once.
const QUICK_MS: u64 = 10_000;

/// Counts the generation that ends now.
pub(crate) fn count_run(run: &mut JobRun, now: Timestamp) {
    let ran_ms = match &run.phase {
        Phase::Running(running) => millis(now.since(running.since)),
        _ => 0,
    };
    run.ran_ms += ran_ms;
    run.quick_ends = if ran_ms < QUICK_MS { run.quick_ends.saturating_add(1) } else { 0 };
}

/// Before a generation that follows one which ended well.
pub(crate) fn after_end(run: &JobRun) -> u64 {
    doubled(run.quick_ends.saturating_sub(1))
}

/// Before one that follows a failure: none the first time, since most failures do not come again at once.
pub(crate) fn after_failure(run: &JobRun) -> u64 {
    match run.quick_ends {
        0 | 1 => 0,
        more => doubled(more - 2),
    }
}

fn doubled(times: u32) -> u64 {
    (PAUSE_MS.0 << times.min(7)).min(PAUSE_MS.1)
}

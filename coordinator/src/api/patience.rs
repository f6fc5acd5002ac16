//! How a follower of a job waits: for what comes, and at the job's end not for ever.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long after a job's end its last items are waited for, counted from the last that came: an
/// agent that is connected delivers within this, one that is lost never does.
const LAST_ITEMS: Duration = Duration::from_secs(5);

/// What is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ahead {
    Everything,
    /// The job has ended, and a node says that it still sends of it. It may stop saying so without anybody being
    /// woken: it is asked again.
    OnTheWay,
    /// The job has ended, but not all that sends of it has.
    LastItems,
    Nothing,
}

#[derive(Debug, Default)]
pub(super) struct Patience {
    until: Option<Instant>,
}

impl Patience {
    /// Waits until there may be more; false if nothing is waited for any more. `progress` says that
    /// something has come since the last wait.
    pub(super) async fn wait<T>(
        &mut self,
        ahead: Ahead,
        progress: bool,
        items: &mut watch::Receiver<T>,
        job: &mut watch::Receiver<()>,
    ) -> bool {
        if ahead == Ahead::Nothing {
            return false;
        }
        if matches!(ahead, Ahead::Everything | Ahead::OnTheWay) || progress {
            self.until = None;
        }
        let until = *self.until.get_or_insert_with(|| Instant::now() + LAST_ITEMS);
        tokio::select! {
            _ = items.changed() => true,
            _ = job.changed() => true,
            () = tokio::time::sleep_until(until), if ahead != Ahead::Everything => ahead == Ahead::OnTheWay,
        }
    }
}

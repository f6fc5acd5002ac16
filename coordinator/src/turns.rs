//! Turns: how many transfers go on at a time, and how long one waits for its place.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Transfers of a store at a time, each with a few megabytes of buffers: enough to fill any disk.
pub(crate) const TRANSFERS: usize = 32;

/// How long a transfer may wait for its turn; clients try again later.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub(crate) struct Turns(Arc<Semaphore>);

/// A place for one transfer, until it is dropped.
pub(crate) struct Turn(#[expect(dead_code, reason = "it gives the place back")] OwnedSemaphorePermit);

impl Turns {
    pub(crate) fn new(at_a_time: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_a_time)))
    }

    /// A place; `None` if there was none in time.
    pub(crate) async fn take(&self) -> Option<Turn> {
        let taken = tokio::time::timeout(PATIENCE, self.0.clone().acquire_owned()).await.ok()?;
        Some(Turn(taken.expect("the semaphore is never closed")))
    }
}

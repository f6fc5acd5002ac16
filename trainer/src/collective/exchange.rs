//! How a communicator's unique id gets from its rank 0 to every rank, as NCCL does it: rank 0 makes
//! 128 bytes, somebody carries them, and whoever holds them can join.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Length of a unique id, NCCL's.
pub const UNIQUE_ID_BYTES: usize = convoke_proto::UNIQUE_ID_BYTES;

/// A communicator's unique id.
pub type UniqueId = [u8; UNIQUE_ID_BYTES];

/// Carries unique ids between the ranks of one generation.
pub trait Exchange: Sync {
    /// Write-once per group.
    fn publish(&self, group: &str, id: &UniqueId) -> Result<(), ExchangeError>;
    /// Waits for a group's id, at most `timeout`.
    fn fetch(&self, group: &str, timeout: Duration) -> Result<UniqueId, ExchangeError>;
}

/// Why an id did not pass.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    #[error("no id for group {group} within {} s: has rank 0 started?", .after.as_secs_f64())]
    Timeout { group: String, after: Duration },
    #[error("group {group} has another id already")]
    AlreadySet { group: String },
    #[error("group {group}'s id has {length} bytes, not {UNIQUE_ID_BYTES}")]
    WrongLength { group: String, length: usize },
    #[error(transparent)]
    Agent(#[from] crate::agent::AgentError),
}

/// Between threads of one process.
#[derive(Debug, Default)]
pub struct MemoryExchange {
    ids: Mutex<HashMap<String, UniqueId>>,
    published: Condvar,
}

impl Exchange for MemoryExchange {
    fn publish(&self, group: &str, id: &UniqueId) -> Result<(), ExchangeError> {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.get(group).is_some_and(|there| there != id) {
            return Err(ExchangeError::AlreadySet { group: group.to_owned() });
        }
        ids.insert(group.to_owned(), *id);
        self.published.notify_all();
        Ok(())
    }

    fn fetch(&self, group: &str, timeout: Duration) -> Result<UniqueId, ExchangeError> {
        let deadline = Instant::now() + timeout;
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(id) = ids.get(group) {
                return Ok(*id);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ExchangeError::Timeout { group: group.to_owned(), after: timeout });
            }
            ids = self.published.wait_timeout(ids, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

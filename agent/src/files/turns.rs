//! One at a time for each key: replicas that are laid out and removed, trees that are fetched.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

/// Held while it is somebody's turn.
pub(super) type Turn = OwnedMutexGuard<()>;

#[derive(Debug)]
pub(super) struct Turns<K>(Mutex<BTreeMap<K, Weak<tokio::sync::Mutex<()>>>>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord> Turns<K> {
    /// Waits until nobody else has `key`'s turn. Each holder's work is bounded by its own deadlines.
    pub(super) async fn take(&self, key: K) -> Turn {
        self.lock_of(key).lock_owned().await
    }

    fn lock_of(&self, key: K) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        let known = locks.get(&key).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let lock = Arc::default();
            locks.insert(key, Arc::downgrade(&lock));
            lock
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_waits_for_itself_alone() {
        let turns = Turns::default();
        let first = turns.take(1).await;
        let _other = turns.take(2).await;
        let mut again = std::pin::pin!(turns.take(1));
        assert!(futures::poll!(&mut again).is_pending());
        drop(first);
        again.await;
    }
}

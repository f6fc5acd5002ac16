//! How far the preparation of each replica is, for people, and for the coordinator to see that it moves.

use std::collections::BTreeMap;
use std::sync::Arc;

use convoke_model::{Progress, ReplicaKey};
use tokio::sync::watch;

/// A shared, cheap handle.
#[derive(Debug, Clone, Default)]
pub struct Progresses(Arc<watch::Sender<BTreeMap<ReplicaKey, Progress>>>);

/// One replica's long step; when it is dropped, the step is over.
#[derive(Debug)]
pub struct Step {
    progresses: Progresses,
    key: ReplicaKey,
}

impl Progresses {
    /// A step of `key` begins.
    pub fn begin(&self, key: &ReplicaKey) -> Step {
        Step { progresses: self.clone(), key: key.clone() }
    }

    pub fn of(&self, key: &ReplicaKey) -> Option<Progress> {
        self.0.borrow().get(key).cloned()
    }

    pub fn subscribe(&self) -> watch::Receiver<BTreeMap<ReplicaKey, Progress>> {
        self.0.subscribe()
    }
}

impl Step {
    /// Every change goes to the coordinator: tell once in a second, or less often.
    pub fn tell(&self, progress: Progress) {
        self.progresses.0.send_if_modified(|all| {
            let before = all.insert(self.key.clone(), progress.clone());
            before != Some(progress)
        });
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.progresses.0.send_if_modified(|all| all.remove(&self.key).is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::desired_replica;

    #[test]
    fn a_step_is_seen_until_it_is_over() {
        let (progresses, key) = (Progresses::default(), desired_replica("j", 1, 0, &[]).key());
        let step = progresses.begin(&key);
        let mut seen = progresses.subscribe();
        let progress = Progress { what: "fetches files".into(), done: 1, total: 2 };
        step.tell(progress.clone());
        assert!(seen.has_changed().unwrap());
        assert_eq!(progresses.of(&key), Some(progress.clone()));
        seen.mark_unchanged();
        step.tell(progress);
        assert!(!seen.has_changed().unwrap(), "the same again wakes nobody");
        drop(step);
        assert_eq!(progresses.of(&key), None);
    }
}

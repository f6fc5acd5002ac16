//! Named problems of this node, raised and cleared by whoever sees them, reported by the session.

use std::collections::BTreeMap;
use std::sync::Arc;

use convoke_model::Condition;
use tokio::sync::watch;
use tracing::{info, warn};

/// More conditions than a person reads; beyond it new ones are only logged.
const MAX_CONDITIONS: usize = 64;

/// A condition is known by its name and by what it is about (a task, a stream, or nothing).
type Key = (&'static str, String);

/// A shared, cheap handle to the node's conditions.
#[derive(Debug, Clone, Default)]
pub struct Conditions(Arc<watch::Sender<BTreeMap<Key, String>>>);

impl Conditions {
    /// Raises the condition, or changes its message; logged when it changes.
    pub fn raise(&self, name: &'static str, about: &str, message: impl Into<String>) {
        let message = message.into();
        self.0.send_if_modified(|conditions| {
            let key = (name, about.to_owned());
            if conditions.get(&key) == Some(&message) {
                return false;
            }
            warn!(condition = name, about, "{message}");
            if conditions.len() >= MAX_CONDITIONS && !conditions.contains_key(&key) {
                return false;
            }
            conditions.insert(key, message);
            true
        });
    }

    /// The problem is gone.
    pub fn clear(&self, name: &'static str, about: &str) {
        self.0.send_if_modified(|conditions| {
            let cleared = conditions.remove(&(name, about.to_owned())).is_some();
            if cleared {
                info!(condition = name, about, "cleared");
            }
            cleared
        });
    }

    /// Whatever this was about no longer exists.
    pub fn forget(&self, about: &str) {
        self.0.send_if_modified(|conditions| {
            let before = conditions.len();
            conditions.retain(|(_, subject), _| subject != about);
            conditions.len() != before
        });
    }

    pub fn subscribe(&self) -> watch::Receiver<BTreeMap<Key, String>> {
        self.0.subscribe()
    }

    /// Those about one thing, by name.
    pub fn about(&self, about: &str) -> Vec<Condition> {
        let conditions = self.0.borrow();
        let those = conditions.iter().filter(|((_, subject), _)| subject == about);
        those.map(condition).collect()
    }

    /// As reported: by name, then by what they are about.
    pub fn list(&self) -> Vec<Condition> {
        self.0.borrow().iter().map(condition).collect()
    }
}

fn condition(((name, _), message): (&Key, &String)) -> Condition {
    Condition { name: (*name).to_owned(), message: message.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_listed_until_it_is_cleared() {
        let conditions = Conditions::default();
        conditions.raise("DiskFull", "a", "no space");
        conditions.raise("DiskFull", "b", "no space either");
        conditions.clear("DiskFull", "a");
        let left: Vec<_> = conditions.list().into_iter().map(|c| c.message).collect();
        assert_eq!(left, ["no space either"]);
        conditions.forget("b");
        assert!(conditions.list().is_empty());
    }

    #[test]
    fn raising_the_same_again_wakes_nobody() {
        let conditions = Conditions::default();
        conditions.raise("DiskFull", "", "no space");
        let seen = conditions.subscribe();
        conditions.raise("DiskFull", "", "no space");
        assert!(!seen.has_changed().unwrap());
    }
}

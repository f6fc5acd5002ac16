//! Which agent holds which node's session. Only the owner changes it, so that what the core is told
//! of sessions comes in the same order; everybody may look.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use convoke_model::{AgentInstance, NodeId};
use convoke_proto::v1::control_response::Message as ToAgent;
use tokio::sync::{mpsc, watch};

/// What a node may be asked before it has read the first of it: a person opens a few tunnels at a time, and
/// asks a question with each submit.
const ASKED: usize = 16;

/// One open control stream, for the task that serves it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) node: NodeId,
    pub(crate) id: u64,
    pub(crate) signal: watch::Receiver<Signal>,
    /// What the agent is asked besides: tunnels to open, questions.
    pub(crate) asked: mpsc::Receiver<ToAgent>,
}

/// What a session's task should look at. Level-triggered: several wake-ups count as one, so a slow
/// agent holds nobody up and gets the newest state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The desired state may have changed; the number only tells one wake-up from the next.
    Desired(u64),
    Close,
}

#[derive(Debug, Default)]
pub(crate) struct Sessions {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    opened: u64,
    nodes: HashMap<NodeId, Entry>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    instance: AgentInstance,
    signal: watch::Sender<Signal>,
    asked: mpsc::Sender<ToAgent>,
}

impl Sessions {
    /// Opens a session; one that the node had before is closed.
    pub(crate) fn open(&self, node: &NodeId, instance: &AgentInstance) -> Session {
        let mut table = self.table();
        table.opened += 1;
        let id = table.opened;
        let (signal, received) = watch::channel(Signal::Desired(0));
        let (asked, received_asked) = mpsc::channel(ASKED);
        let entry = Entry { id, instance: instance.clone(), signal, asked };
        if let Some(old) = table.nodes.insert(node.clone(), entry) {
            old.signal.send_replace(Signal::Close);
        }
        Session { node: node.clone(), id, signal: received, asked: received_asked }
    }

    /// Forgets a session; false if the node has another one by now.
    pub(crate) fn remove(&self, node: &NodeId, id: u64) -> bool {
        let mut table = self.table();
        let current = table.nodes.get(node).is_some_and(|entry| entry.id == id);
        if current {
            table.nodes.remove(node);
        }
        current
    }

    pub(crate) fn is_current(&self, node: &NodeId, id: u64) -> bool {
        self.table().nodes.get(node).is_some_and(|entry| entry.id == id)
    }

    /// Whether this agent holds the node's session.
    pub(crate) fn is_held_by(&self, node: &NodeId, instance: &AgentInstance) -> bool {
        self.table().nodes.get(node).is_some_and(|entry| entry.instance == *instance)
    }

    pub(crate) fn wake(&self, node: &NodeId) {
        if let Some(entry) = self.table().nodes.get(node) {
            entry.signal.send_modify(|signal| {
                if let Signal::Desired(n) = signal {
                    *n += 1;
                }
            });
        }
    }

    /// Asks the node's agent for something; false if it is not connected, or does not keep up.
    pub(crate) fn ask(&self, node: &NodeId, message: ToAgent) -> bool {
        self.table().nodes.get(node).is_some_and(|entry| entry.asked.try_send(message).is_ok())
    }

    pub(crate) fn close(&self, node: &NodeId) {
        if let Some(entry) = self.table().nodes.get(node) {
            entry.signal.send_replace(Signal::Close);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_session_of_a_node_closes_the_old_one_whose_end_then_means_nothing() {
        let sessions = Sessions::default();
        let node = NodeId::new("n").unwrap();
        let instance = AgentInstance::new("i").unwrap();
        let old = sessions.open(&node, &instance);
        let new = sessions.open(&node, &instance);
        assert_eq!(*old.signal.borrow(), Signal::Close);
        assert!(!sessions.remove(&node, old.id), "the new session must stay");
        assert!(sessions.is_current(&node, new.id) && sessions.is_held_by(&node, &instance));
        sessions.wake(&node);
        assert!(new.signal.has_changed().unwrap());
        assert!(!sessions.is_held_by(&node, &AgentInstance::new("other").unwrap()));
    }
}

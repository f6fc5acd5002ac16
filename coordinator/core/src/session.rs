//! Volatile knowledge of nodes: who is connected, and when each was last heard.
//!
//! A node is Ready (connected), Suspect (disconnected, lease running), Unknown (not yet seen in
//! the reconnect window after a start) or Lost (lease over). Only the loss is durable, as
//! `Node::lost`: it fails gangs, so it must not be forgotten by a restart.

use std::collections::BTreeMap;

use convoke_model::{AgentInstance, NodeId, NodeState, Timestamp};

use crate::{Config, Node, Observation};

#[derive(Debug, Clone, Default)]
pub(crate) struct Sessions {
    /// `None` until the coordinator has started.
    started: Option<Timestamp>,
    /// When the coordinator last found that it had not run for a while.
    resumed: Timestamp,
    by_node: BTreeMap<NodeId, Session>,
}

#[derive(Debug, Clone)]
struct Session {
    instance: AgentInstance,
    connected: bool,
    heard: Timestamp,
    /// When the connection came or went.
    since: Timestamp,
}

impl Sessions {
    pub(crate) fn is_started(&self) -> bool {
        self.started.is_some()
    }

    /// The coordinator has started: every session of before is gone.
    pub(crate) fn start(&mut self, now: Timestamp) {
        *self = Self { started: Some(now), ..Self::default() };
    }

    /// An accepted hello counts as hearing; the session is open only once the shell says so.
    pub(crate) fn greet(&mut self, now: Timestamp, node: &NodeId, instance: &AgentInstance) {
        let session = Session { instance: instance.clone(), connected: false, heard: now, since: now };
        self.by_node.insert(node.clone(), session);
    }

    pub(crate) fn lose(&mut self, now: Timestamp, node: &NodeId) {
        if let Some(session) = self.by_node.get_mut(node).filter(|s| s.connected) {
            session.connected = false;
            session.since = now;
        }
    }

    pub(crate) fn forget(&mut self, node: &NodeId) {
        self.by_node.remove(node);
    }

    pub(crate) fn observe(&mut self, now: Timestamp, seen: Observation) {
        match seen {
            Observation::SessionOpened { node, instance } => {
                self.by_node.insert(node, Session { instance, connected: true, heard: now, since: now });
            }
            Observation::SessionClosed { node } => self.lose(now, &node),
            Observation::Heard { node } => {
                if let Some(session) = self.by_node.get_mut(&node).filter(|s| s.connected) {
                    session.heard = now;
                }
            }
            Observation::Stalled => self.resumed = now,
        }
    }

    /// Since when the node has been connected, or not.
    pub(crate) fn since(&self, node: &NodeId) -> Timestamp {
        self.by_node.get(node).map_or(self.started.unwrap_or_default(), |s| s.since)
    }

    /// The last sign of life; the coordinator's start for a node that it has not heard since.
    pub(crate) fn last_heard(&self, node: &NodeId) -> Timestamp {
        self.by_node.get(node).map_or(self.started.unwrap_or_default(), |s| s.heard)
    }

    /// The end of the window after a start, or a stall, in which nothing is judged.
    pub(crate) fn window_end(&self, config: &Config) -> Timestamp {
        self.started.unwrap_or_default().max(self.resumed).after(config.reconnect_window)
    }

    /// When the node is lost if it is not heard before.
    pub(crate) fn expiry(&self, config: &Config, node: &NodeId) -> Timestamp {
        let lease = self.by_node.get(node).map_or(Timestamp(0), |s| s.heard.after(config.lease));
        lease.max(self.window_end(config))
    }

    /// True if the node is disconnected, by a closed session rather than by a restart of ours.
    pub(crate) fn is_suspect(&self, node: &Node) -> bool {
        node.lost.is_none() && self.by_node.get(&node.info.id).is_some_and(|s| !s.connected)
    }

    pub(crate) fn state(&self, config: &Config, node: &Node, now: Timestamp) -> NodeState {
        let session = self.by_node.get(&node.info.id).filter(|s| s.instance == node.instance);
        match session {
            _ if node.lost.is_some() || now >= self.expiry(config, &node.info.id) => NodeState::Lost,
            Some(session) if session.connected => NodeState::Ready,
            Some(_) => NodeState::Suspect,
            None => NodeState::Unknown,
        }
    }
}

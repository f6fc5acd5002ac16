//! Sessions that reach into a task, while their agent is on its way: an operator's call waits here for
//! the call of the agent that will serve it.
//!
//! A tunnel is opened by an operator, announced to the node's agent on its control stream, and met by
//! that agent's own call within ten seconds, or forgotten. Bytes do not pass through here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use convoke_model::NodeId;
use convoke_proto::v1;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// Tunnels that wait for their agents. Each is gone within seconds; beyond this somebody is looping.
const MAX_WAITING: usize = 256;

/// The agent's half: what it says, and where to answer.
pub(crate) struct AgentHalf {
    pub(crate) frames: tonic::Streaming<v1::TunnelFrame>,
    pub(crate) answers: mpsc::Sender<Result<v1::TunnelFrame, Status>>,
}

#[derive(Default, Clone)]
pub(crate) struct Tunnels {
    waiting: Arc<Mutex<HashMap<String, Waiting>>>,
}

struct Waiting {
    node: NodeId,
    met: oneshot::Sender<AgentHalf>,
}

/// A tunnel that waits; dropped, it is forgotten.
pub(crate) struct Expected {
    tunnels: Tunnels,
    pub(crate) id: String,
    pub(crate) agent: oneshot::Receiver<AgentHalf>,
}

impl Tunnels {
    /// Expects the agent of `node`; `None` when too many wait.
    pub(crate) fn expect(&self, node: NodeId) -> Option<Expected> {
        let mut waiting = self.waiting();
        if waiting.len() >= MAX_WAITING {
            return None;
        }
        let id = uuid::Uuid::new_v4().to_string();
        let (met, agent) = oneshot::channel();
        waiting.insert(id.clone(), Waiting { node, met });
        Some(Expected { tunnels: self.clone(), id, agent })
    }

    /// Hands the agent's half to who waits for it; `None` if nobody does, or not for this node.
    pub(crate) fn meet(&self, id: &str, node: &NodeId) -> Option<oneshot::Sender<AgentHalf>> {
        let mut waiting = self.waiting();
        if waiting.get(id)?.node != *node {
            return None;
        }
        waiting.remove(id).map(|waiting| waiting.met)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.tunnels.waiting().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_met_once_by_the_agent_of_its_node_and_forgotten_when_nobody_waits() {
        let tunnels = Tunnels::default();
        let (a, b) = (NodeId::new("a").unwrap(), NodeId::new("b").unwrap());
        let expected = tunnels.expect(a.clone()).unwrap();
        assert!(tunnels.meet(&expected.id, &b).is_none(), "another node's agent");
        assert!(tunnels.meet(&expected.id, &a).is_some());
        assert!(tunnels.meet(&expected.id, &a).is_none(), "a second time");
        let id = tunnels.expect(a.clone()).unwrap().id.clone();
        assert!(tunnels.meet(&id, &a).is_none(), "nobody waits any more");
    }

    #[test]
    fn tunnels_that_wait_are_bounded() {
        let tunnels = Tunnels::default();
        let node = NodeId::new("a").unwrap();
        let all: Vec<_> = (0..MAX_WAITING).map(|_| tunnels.expect(node.clone()).unwrap()).collect();
        assert!(tunnels.expect(node.clone()).is_none());
        drop(all);
        assert!(tunnels.expect(node).is_some());
    }
}

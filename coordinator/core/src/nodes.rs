//! Nodes: registration, reports, loss.
//!
//! Messages: NodeHello, NodeObserved, Tick (leases). Failures: a name held by another agent, an
//! instance held by another node or host, a foreign cluster, more nodes than the bound.

use std::collections::BTreeSet;

use convoke_model::{
    AgentInstance, ClusterId, Condition, EventLevel, JobId, NodeId, NodeInfo, NodeState, ObservedReplica,
    ObservedState, ReplicaKey, ReplicaPhase, TaskExit, TaskPhase,
};

use crate::draft::Draft;
use crate::{Change, Denied, Ghost, MAX_NODES, MAX_OBSERVED_REPLICAS, Node};

impl Draft<'_> {
    /// Makes every lease that has run out durable.
    pub(crate) fn expire_nodes(&mut self) {
        let lost = |node: &Node| node.lost.is_none() && self.node_state(node) == NodeState::Lost;
        let nodes: Vec<NodeId> =
            self.state.nodes.values().filter(|n| lost(n)).map(|n| n.info.id.clone()).collect();
        for node in nodes {
            self.make(Change::NodeLost { node: node.clone() });
            let silent = self.now.since(self.sessions.last_heard(&node)).as_secs();
            let message = format!("node {node} is lost: not heard for {silent} s; see its agent's log");
            self.tell_node(EventLevel::Warning, "NodeLost", &node, message);
        }
    }

    pub(crate) fn hello(
        &mut self,
        info: NodeInfo,
        instance: AgentInstance,
        cluster: Option<ClusterId>,
    ) -> Result<(), Denied> {
        if let (Some(ours), Some(theirs)) = (&self.state.cluster, &cluster)
            && ours != theirs
        {
            return Err(Denied::WrongCluster { ours: ours.to_string(), theirs: theirs.to_string() });
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = info.devices.iter().find(|d| !seen.insert(&d.id)) {
            return Err(Denied::DuplicateDevice { node: info.id.clone(), device: twice.id.clone() });
        }
        self.refuse_copies(&info, &instance)?;
        let node = info.id.clone();
        let (kind, message) = match self.state.nodes.get(&node) {
            None => {
                self.make_room(&node)?;
                ("NodeRegistered", format!("node {node} registered with {} devices", info.devices.len()))
            }
            Some(old) if old.instance != instance && self.node_state(old) != NodeState::Lost => {
                return Err(Denied::NodeTaken(node));
            }
            Some(old) if old.instance != instance => {
                ("NodeRegistered", format!("node {node} is now served by another agent"))
            }
            Some(old) if old.lost.is_some() => ("NodeBack", format!("node {node} is back")),
            Some(old) if old.info != info => ("NodeChanged", format!("node {node} describes itself anew")),
            // Its reports count anew from here: a late one of an earlier session is told by that.
            Some(old) if old.observed.applied.is_some() => {
                self.make(Change::NodeRegistered { info, instance });
                return Ok(());
            }
            Some(_) => return Ok(()),
        };
        self.make(Change::NodeRegistered { info, instance });
        self.tell_node(EventLevel::Info, kind, &node, message);
        Ok(())
    }

    /// An instance is one state directory, so that two living agents with one are a directory and its copy: taken in
    /// turns, each would end the other's tasks.
    fn refuse_copies(&self, info: &NodeInfo, instance: &AgentInstance) -> Result<(), Denied> {
        let (nodes, own) = (&self.state.nodes, &info.id);
        let same = nodes.values().filter(|other| other.instance == *instance);
        for other in same {
            let (name, state) = (&other.info.id, self.node_state(other));
            if name != own && state != NodeState::Lost {
                return Err(Denied::InstanceTaken { node: own.clone(), other: name.clone() });
            }
            // An agent that starts again may be here before its last session is seen to end: on the same host.
            if name == own && state == NodeState::Ready && other.info.hostname != info.hostname {
                let (theirs, ours) = (other.info.hostname.clone(), info.hostname.clone());
                return Err(Denied::InstanceCopied { node: own.clone(), theirs, ours });
            }
        }
        Ok(())
    }

    /// At the bound, the node that has been lost the longest and holds nothing makes room.
    fn make_room(&mut self, newcomer: &NodeId) -> Result<(), Denied> {
        if self.state.nodes.len() < MAX_NODES {
            return Ok(());
        }
        let placed: BTreeSet<&NodeId> = (self.state.jobs.values())
            .filter(|job| job.run.phase.has_gang())
            .flat_map(|job| job.run.gang.iter().flat_map(|gang| &gang.placement.replicas))
            .map(|replica| &replica.node)
            .collect();
        let idle = |n: &&_| -> bool {
            let node: &Node = n;
            node.lost.is_some() && node.ghosts.is_empty() && !placed.contains(&node.info.id)
        };
        let oldest = self.state.nodes.values().map(|n| &**n).filter(idle).min_by_key(|node| node.lost);
        let node = oldest.ok_or(Denied::TooManyNodes)?.info.id.clone();
        self.make(Change::NodeForgotten { node: node.clone() });
        let message = format!("node {node}, lost the longest, is forgotten to make room for {newcomer}");
        self.tell_node(EventLevel::Info, "NodeForgotten", &node, message);
        Ok(())
    }

    pub(crate) fn observed(&mut self, id: &NodeId, fresh: ObservedState) -> Result<(), Denied> {
        let node = self.state.nodes.get(id).ok_or_else(|| Denied::UnknownNode(id.clone()))?;
        if fresh.replicas.len() > MAX_OBSERVED_REPLICAS {
            return Err(Denied::TooManyReplicas(id.clone()));
        }
        // A report from before the last one. Hello has cleared it for an agent that starts anew.
        if fresh.applied < node.observed.applied {
            return Ok(());
        }
        let observed = advance(&node.observed, fresh);
        let ghosts: Vec<Ghost> = node.ghosts.iter().filter(|g| !has_ended(g, &observed)).cloned().collect();
        let (is_news, is_relief) = (observed != node.observed, ghosts.len() < node.ghosts.len());
        let old: BTreeSet<&str> = node.observed.conditions.iter().map(|c| c.name.as_str()).collect();
        let raised: Vec<String> = (observed.conditions.iter())
            .filter(|c| !old.contains(c.name.as_str()))
            .map(|c| format!("node {id}: {}: {}", c.name, c.message))
            .collect();
        let known = &node.observed.device_conditions;
        let new_of_devices = observed
            .device_conditions
            .iter()
            .filter(|c| !known.iter().any(|old| (&old.device, &old.name) == (&c.device, &c.name)));
        let raised: Vec<String> = raised
            .into_iter()
            .chain(new_of_devices.map(|c| format!("node {id}: {}: {}", c.name, c.message)))
            .collect();
        let warned = self.warnings(&node.observed, &observed);
        if is_news {
            let moving = progressing(&node.observed, &observed);
            self.make(Change::NodeObserved { node: id.clone(), observed });
            for key in moving {
                self.grant_time(&key);
            }
        }
        if is_relief {
            self.make(Change::NodeGhosts { node: id.clone(), ghosts });
        }
        for (job, message) in warned {
            self.tell_job(EventLevel::Warning, "ReplicaCondition", &job, message);
        }
        for message in raised {
            self.tell_node(EventLevel::Warning, "NodeCondition", id, message);
        }
        Ok(())
    }
}

impl Draft<'_> {
    /// What replicas of current generations newly complain of, by job.
    fn warnings(&self, old: &ObservedState, fresh: &ObservedState) -> Vec<(JobId, String)> {
        let mut found = Vec::new();
        for replica in &fresh.replicas {
            let key = &replica.key;
            let Some(job) = self.state.jobs.get(&key.job) else { continue };
            let gang = job.run.gang.iter().flat_map(|gang| &gang.placement.replicas);
            let placed = gang.into_iter().find(|r| r.node_rank == key.node_rank);
            let Some(placed) = placed.filter(|_| job.run.generation == key.generation) else { continue };
            let before = old.replicas.iter().find(|r| r.key == *key);
            let known = |c: &Condition| before.is_some_and(|r| r.conditions.iter().any(|o| o.name == c.name));
            let new = replica.conditions.iter().filter(|c| !known(c));
            found.extend(
                new.map(|c| (key.job.clone(), format!("node {}: {}: {}", placed.node, c.name, c.message))),
            );
        }
        found
    }
}

/// Replicas whose preparation has come further since the last report.
fn progressing(old: &ObservedState, fresh: &ObservedState) -> Vec<ReplicaKey> {
    let before = |key: &ReplicaKey| old.replicas.iter().find(|o| o.key == *key).map(|o| &o.progress);
    let moved = |r: &&ObservedReplica| r.progress.is_some() && before(&r.key) != Some(&r.progress);
    fresh.replicas.iter().filter(moved).map(|r| r.key.clone()).collect()
}

/// The fresh report, except that what had ended stays so: an end is final whatever a late
/// message says.
fn advance(old: &ObservedState, mut fresh: ObservedState) -> ObservedState {
    for replica in &mut fresh.replicas {
        if let Some(before) = old.replicas.iter().find(|o| o.key == replica.key) {
            keep_ends(before, replica);
        }
    }
    fresh
}

fn keep_ends(before: &ObservedReplica, replica: &mut ObservedReplica) {
    let progress = |phase: &ReplicaPhase| match phase {
        // An agent that restarts may have to prepare again.
        ReplicaPhase::Preparing | ReplicaPhase::Ready { .. } => 0,
        ReplicaPhase::Started => 1,
        ReplicaPhase::Refused { .. } | ReplicaPhase::Ended => 2,
    };
    if progress(&replica.phase) < progress(&before.phase) {
        replica.phase = before.phase.clone();
    }
    for old in &before.tasks {
        match replica.tasks.iter_mut().find(|task| task.rank == old.rank) {
            Some(task) => {
                if let TaskPhase::Exited(old) = &old.phase {
                    task.phase = TaskPhase::Exited(with_more(old, &task.phase));
                }
            }
            None => replica.tasks.push(old.clone()),
        }
    }
    replica.tasks.sort_by_key(|task| task.rank);
}

/// An end, with what a later report knows of it besides.
fn with_more(old: &TaskExit, fresh: &TaskPhase) -> TaskExit {
    let mut exit = old.clone();
    if let TaskPhase::Exited(fresh) = fresh {
        exit.explanation = exit.explanation.or_else(|| fresh.explanation.clone());
        exit.message = exit.message.or_else(|| fresh.message.clone());
    }
    exit
}

/// True once the node itself says that the replica is over.
fn has_ended(ghost: &Ghost, observed: &ObservedState) -> bool {
    match observed.replicas.iter().find(|r| r.key == ghost.key) {
        Some(replica) => matches!(replica.phase, ReplicaPhase::Ended | ReplicaPhase::Refused { .. }),
        None => observed.applied.is_some_and(|(_, revision)| revision >= ghost.dismissed),
    }
}

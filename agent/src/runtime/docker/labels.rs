//! Labels on each container, by which the agent that made it, or its successor, finds it again.

use std::collections::{BTreeMap, HashMap};

use convoke_model::{AgentInstance, DeviceId, Generation, JobId, NodeRank, Rank, ReplicaKey};

use super::super::{Container, TaskKey, TaskSpec};

/// The agent's state directory, by the id made with it.
pub(super) const INSTANCE: &str = "convoke.instance";
const CLUSTER: &str = "convoke.cluster";
const NODE: &str = "convoke.node";
const JOB: &str = "convoke.job";
const GENERATION: &str = "convoke.generation";
const NODE_RANK: &str = "convoke.node-rank";
const RANK: &str = "convoke.rank";
const GPUS: &str = "convoke.gpus";

/// The labels of a task's container.
pub(super) fn of(
    instance: &AgentInstance,
    task: &TaskSpec,
    container: &Container,
) -> BTreeMap<String, String> {
    let ReplicaKey { job, generation, node_rank } = &task.key.replica;
    let gpus: Vec<&str> = container.gpus.iter().map(DeviceId::as_str).collect();
    let mut labels = BTreeMap::from([
        (INSTANCE, instance.to_string()),
        (NODE, task.node.to_string()),
        (JOB, job.to_string()),
        (GENERATION, generation.to_string()),
        (NODE_RANK, node_rank.to_string()),
        (RANK, task.key.rank.to_string()),
    ]);
    labels.extend(container.cluster.as_ref().map(|cluster| (CLUSTER, cluster.to_string())));
    if !gpus.is_empty() {
        labels.insert(GPUS, gpus.join(","));
    }
    labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A filter that only containers of `instance` pass.
pub(super) fn filter(instance: &AgentInstance) -> String {
    format!("{INSTANCE}={instance}")
}

/// The job's GPUs that a container's labels name.
pub(super) fn gpus(labels: &HashMap<String, String>) -> Vec<DeviceId> {
    let names = labels.get(GPUS).map(String::as_str).unwrap_or_default();
    names.split(',').filter_map(|name| DeviceId::new(name).ok()).collect()
}

/// The task that a container's labels name.
pub(super) fn task(labels: &HashMap<String, String>) -> Option<TaskKey> {
    let replica = ReplicaKey {
        job: JobId::new(labels.get(JOB)?).ok()?,
        generation: Generation(labels.get(GENERATION)?.parse().ok()?),
        node_rank: NodeRank(labels.get(NODE_RANK)?.parse().ok()?),
    };
    Some(TaskKey { replica, rank: Rank(labels.get(RANK)?.parse().ok()?) })
}

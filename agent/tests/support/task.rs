//! A task that runs in a container, as the runtime is asked for it.

use std::collections::BTreeMap;

use convoke_agent::runtime::{Container, TaskKey, TaskSpec};
use convoke_model::{
    ContainerOptions, Generation, JobId, NodeId, NodeRank, Rank, ReplicaKey, ResourceLimits,
};

/// Rank 0 of a job of its own, running `command` in a container of that name and image; all else is the default.
pub(super) fn contained_task(name: &str, image: &str, command: &[&str]) -> TaskSpec {
    let container = Container {
        name: name.to_owned(),
        image: image.to_owned(),
        image_name: image.to_owned(),
        entrypoint: None,
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        working_dir: None,
        mounts: Vec::new(),
        options: ContainerOptions::default(),
        limits: ResourceLimits::default(),
        gpus: Vec::new(),
        gpu_injection: None,
        gang: false,
        stop_grace: None,
        cluster: None,
        ipc_of: None,
    };
    let job = JobId::new("job-1").unwrap();
    let replica = ReplicaKey { job, generation: Generation(1), node_rank: NodeRank(0) };
    TaskSpec {
        key: TaskKey { replica, rank: Rank(0) },
        node: NodeId::new("node-a").unwrap(),
        argv: Vec::new(),
        environment: BTreeMap::new(),
        working_dir: "/".into(),
        stop_signal: 15,
        container: Some(Box::new(container)),
    }
}

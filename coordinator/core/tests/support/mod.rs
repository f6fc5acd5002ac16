//! Values that every test of the core is made of.

use std::collections::BTreeMap;
use std::time::Duration;

use convoke_model::*;

pub(crate) fn node_id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// A job of `replicas` × `slots` CPU slots, one task per slot.
pub(crate) fn spec(name: &str, replicas: u32, slots: u32) -> JobSpec {
    JobSpec {
        name: JobName::new(name).unwrap(),
        project: "tests".to_owned(),
        service: name.to_owned(),
        project_dir: "/".to_owned(),
        entrypoint: None,
        command: vec!["true".to_owned()],
        environment: BTreeMap::new(),
        working_dir: None,
        replicas,
        devices: DeviceRequest { kind: DeviceKind::Cpu, count: DeviceCount::Count(slots) },
        limits: ResourceLimits::default(),
        layout: RankLayout::PerGpu,
        procs_per_task: None,
        framework: Framework::Torch,
        priority: 0,
        restart: RestartPolicy::default(),
        stop_signal: 15,
        stop_grace: Duration::from_secs(10),
        failure_grace: Duration::from_secs(2),
        time_limit: None,
        checkpoint: CheckpointPolicy::default(),
        interface: None,
        fence: None,
        collect: Collect::NodeRankZero,
        preflight: false,
        constraints: Vec::new(),
        image: None,
        container: ContainerOptions::default(),
    }
}

/// A host with CPU slots that allows processes.
pub(crate) fn info(name: &str, slots: u32) -> NodeInfo {
    let device = |index| Device {
        id: DeviceId::new(&format!("{name}-cpu-{index}")).unwrap(),
        index,
        kind: DeviceKind::Cpu,
        model: "slot".to_owned(),
        memory: 0,
    };
    NodeInfo {
        id: node_id(name),
        hostname: name.to_owned(),
        labels: BTreeMap::new(),
        addresses: Vec::new(),
        devices: (0..slots).map(device).collect(),
        runtimes: vec![RuntimeKind::Process],
        agent_version: "0".to_owned(),
    }
}

pub(crate) fn shard(rank: u32, content: u8) -> Shard {
    let file = ShardFile { path: "model.safetensors".to_owned(), size: 1, digest: Digest([content; 32]) };
    Shard { rank: Rank(rank), files: vec![file] }
}

//! Values that every test of the core is made of.

use std::collections::BTreeMap;

use convoke_model::*;

pub(crate) fn node_id(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

/// A job of `replicas` × `slots` CPU slots, one task per slot.
pub(crate) fn spec(name: &str, replicas: u32, slots: u32) -> JobSpec {
    JobSpec {
        project: "tests".to_owned(),
        replicas,
        devices: DeviceRequest { kind: DeviceKind::Cpu, count: DeviceCount::Count(slots) },
        layout: RankLayout::PerGpu,
        ..JobSpec::processes(JobName::new(name).unwrap(), vec!["true".to_owned()])
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
        gpu: None,
    };
    NodeInfo {
        id: node_id(name),
        hostname: name.to_owned(),
        labels: BTreeMap::new(),
        addresses: Vec::new(),
        devices: (0..slots).map(device).collect(),
        runtimes: vec![RuntimeKind::Process],
        agent_version: "0".to_owned(),
        gpu_injection: None,
        engine: None,
        gpu_driver: None,
    }
}

pub(crate) fn shard(rank: u32, content: u8) -> Shard {
    let file = ShardFile { path: "model.safetensors".to_owned(), size: 1, digest: Digest([content; 32]) };
    Shard { rank: Rank(rank), files: vec![file] }
}

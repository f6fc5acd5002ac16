//! A node as its agent describes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{DeviceId, DeviceKind, GpuDriver, GpuInfo, NodeId};

/// What an agent registers. Replaced whole on every connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub id: NodeId,
    pub hostname: String,
    pub labels: BTreeMap<String, String>,
    /// Addresses that peers can reach, the preferred one first.
    pub addresses: Vec<NodeAddress>,
    pub devices: Vec<Device>,
    pub runtimes: Vec<RuntimeKind>,
    pub agent_version: String,
    /// How containers get their GPUs; `None` where there is no engine or no GPU.
    #[serde(default)]
    pub gpu_injection: Option<GpuInjection>,
    /// The container engine and its version, for people.
    #[serde(default)]
    pub engine: Option<String>,
    /// `None` where NVML has not told it.
    #[serde(default)]
    pub gpu_driver: Option<GpuDriver>,
}

/// How a container is given GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuInjection {
    /// A device request to NVIDIA's container toolkit.
    Nvidia,
    /// Container Device Interface names; engines from 25 on.
    Cdi,
    /// Device nodes and the driver's libraries, read-only: hosts without NVIDIA's toolkit.
    Direct,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddress {
    pub interface: String,
    /// IPv4 or IPv6, without a port.
    pub address: std::net::IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub id: DeviceId,
    /// The node's own number for it.
    pub index: u32,
    pub kind: DeviceKind,
    /// Product name, for people.
    pub model: String,
    /// Bytes; 0 where it has none of its own.
    pub memory: u64,
    /// Of GPUs only.
    #[serde(default)]
    pub gpu: Option<Box<GpuInfo>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeKind {
    /// Host processes under a shim; only on agents started with `--allow-processes`.
    Process,
    Docker,
}

/// How much the coordinator believes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Connected and heard within the lease.
    Ready,
    /// The connection is gone, the lease not: nothing new is placed, nothing running is touched.
    Suspect,
    /// The coordinator has just started: nothing is judged for one reconnect window.
    Unknown,
    /// The lease ran out.
    Lost,
}

/// A named problem on a node, or with a replica, that people should see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// CamelCase, stable: `DiskFull`.
    pub name: String,
    pub message: String,
}

impl Condition {
    /// The node's container engine does not answer: no container can be started there.
    pub const DOCKER_DOWN: &str = "DockerDown";
    /// Of a replica: some of its files are still on its node, and on their way.
    pub const RETURNING_FILES: &str = "ReturningFiles";
    /// Of a replica: some of its files stay on its node.
    pub const FILES_NOT_RETURNED: &str = "FilesNotReturned";
    /// Of a replica: a checkpoint of it stays on its node.
    pub const CHECKPOINT_NOT_STORED: &str = "CheckpointNotStored";
    /// Of a replica: somebody has paused containers of it.
    pub const TASK_PAUSED: &str = "TaskPaused";
    /// NVML does not answer: nobody can tell how the node's GPUs are.
    pub const NVML_DOWN: &str = "NvmlDown";
}

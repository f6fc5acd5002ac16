//! GPUs: what one is and where it sits, and what is wrong with it.

use serde::{Deserialize, Serialize};

use crate::DeviceId;

/// What does not change while the driver stays loaded. What is `None` or empty, it does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuInfo {
    /// `00000000:1b:00.0`, in lower case.
    pub pci_bus_id: String,
    /// `9.0`.
    pub compute_capability: String,
    /// Whether it is split into instances.
    pub mig: Option<bool>,
    pub ecc: Option<bool>,
    /// NUMA node of its PCIe slot.
    pub numa_node: Option<u32>,
    /// GPUs of its node that it reaches over NVLink, directly or through switches.
    pub nvlink_peers: Vec<NvlinkPeer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NvlinkPeer {
    pub device: DeviceId,
    /// Active links towards it; through switches, those towards the switches.
    pub links: u32,
}

/// Versions for people, as NVML tells them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuDriver {
    /// `580.159.04`.
    pub version: String,
    /// The newest CUDA version that it supports: `13.0`; may be empty.
    pub cuda: String,
}

/// A named problem of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCondition {
    pub device: DeviceId,
    /// CamelCase, stable: `GpuLost`.
    pub name: String,
    pub message: String,
    /// Nothing is placed on the device while this lasts; otherwise it is taken only where no better one is.
    pub blocks: bool,
}

//! GPUs as agents describe them.

use convoke_model::{DeviceCondition, GpuInfo, NvlinkPeer};

use super::{InvalidMessage, all, id};
use crate::v1;

impl From<GpuInfo> for v1::GpuInfo {
    fn from(gpu: GpuInfo) -> Self {
        Self {
            pci_bus_id: gpu.pci_bus_id,
            compute_capability: gpu.compute_capability,
            mig: gpu.mig,
            ecc: gpu.ecc,
            numa_node: gpu.numa_node,
            nvlink_peers: gpu.nvlink_peers.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::GpuInfo> for GpuInfo {
    type Error = InvalidMessage;
    fn try_from(wire: v1::GpuInfo) -> Result<Self, InvalidMessage> {
        Ok(Self {
            pci_bus_id: wire.pci_bus_id,
            compute_capability: wire.compute_capability,
            mig: wire.mig,
            ecc: wire.ecc,
            numa_node: wire.numa_node,
            nvlink_peers: all(wire.nvlink_peers)?,
        })
    }
}

impl From<NvlinkPeer> for v1::NvlinkPeer {
    fn from(peer: NvlinkPeer) -> Self {
        Self { device: peer.device.into(), links: peer.links }
    }
}

impl TryFrom<v1::NvlinkPeer> for NvlinkPeer {
    type Error = InvalidMessage;
    fn try_from(wire: v1::NvlinkPeer) -> Result<Self, InvalidMessage> {
        Ok(Self { device: id(&wire.device, "gpu.nvlink_peers.device")?, links: wire.links })
    }
}

impl From<DeviceCondition> for v1::DeviceCondition {
    fn from(condition: DeviceCondition) -> Self {
        let DeviceCondition { device, name, message, blocks } = condition;
        Self { device: device.into(), name, message, blocks }
    }
}

impl TryFrom<v1::DeviceCondition> for DeviceCondition {
    type Error = InvalidMessage;
    fn try_from(wire: v1::DeviceCondition) -> Result<Self, InvalidMessage> {
        if wire.name.is_empty() {
            return Err(InvalidMessage::Missing { field: "device_condition.name" });
        }
        let v1::DeviceCondition { device, name, message, blocks } = wire;
        Ok(Self { device: id(&device, "device_condition.device")?, name, message, blocks })
    }
}

//! Nodes as agents describe them.

use convoke_model::{
    Condition, Device, DeviceKind, GpuDriver, GpuInjection, NodeAddress, NodeInfo, NodeState, RuntimeKind,
};

use super::{InvalidMessage, address, all, choice, id, invalid};
use crate::v1;

/// A node has at most this many devices: far above real hosts, far below what hurts.
const MAX_DEVICES: usize = 4096;

impl From<DeviceKind> for v1::DeviceKind {
    fn from(kind: DeviceKind) -> Self {
        match kind {
            DeviceKind::Gpu => Self::Gpu,
            DeviceKind::Cpu => Self::Cpu,
        }
    }
}

pub(super) fn device_kind(value: i32, field: &'static str) -> Result<DeviceKind, InvalidMessage> {
    choice(value, field, |wire: v1::DeviceKind| match wire {
        v1::DeviceKind::Unspecified => None,
        v1::DeviceKind::Gpu => Some(DeviceKind::Gpu),
        v1::DeviceKind::Cpu => Some(DeviceKind::Cpu),
    })
}

impl From<NodeInfo> for v1::NodeInfo {
    fn from(info: NodeInfo) -> Self {
        let runtime = |kind| match kind {
            RuntimeKind::Process => v1::RuntimeKind::Process.into(),
            RuntimeKind::Docker => v1::RuntimeKind::Docker.into(),
        };
        Self {
            id: info.id.into(),
            hostname: info.hostname,
            labels: info.labels.into_iter().collect(),
            addresses: info.addresses.into_iter().map(Into::into).collect(),
            devices: info.devices.into_iter().map(Into::into).collect(),
            runtimes: info.runtimes.into_iter().map(runtime).collect(),
            agent_version: info.agent_version,
            gpu_injection: info.gpu_injection.map_or(v1::GpuInjection::Unspecified, Into::into).into(),
            engine: info.engine.unwrap_or_default(),
            gpu_driver: info.gpu_driver.as_ref().map(|driver| driver.version.clone()).unwrap_or_default(),
            cuda_version: info.gpu_driver.map(|driver| driver.cuda).unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::NodeInfo> for NodeInfo {
    type Error = InvalidMessage;
    fn try_from(wire: v1::NodeInfo) -> Result<Self, InvalidMessage> {
        let runtime = |value| {
            choice(value, "node.runtimes", |wire: v1::RuntimeKind| match wire {
                v1::RuntimeKind::Unspecified => None,
                v1::RuntimeKind::Process => Some(RuntimeKind::Process),
                v1::RuntimeKind::Docker => Some(RuntimeKind::Docker),
            })
        };
        if wire.devices.len() > MAX_DEVICES {
            return Err(invalid(
                "node.devices",
                format!("{} is more than {MAX_DEVICES}", wire.devices.len()),
            ));
        }
        let devices: Vec<Device> = all(wire.devices)?;
        let mut ids: Vec<_> = devices.iter().map(|d| &d.id).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(invalid("node.devices", format!("{} is there twice", pair[0])));
        }
        Ok(Self {
            id: id(&wire.id, "node.id")?,
            hostname: wire.hostname,
            labels: wire.labels.into_iter().collect(),
            addresses: all(wire.addresses)?,
            runtimes: wire.runtimes.into_iter().map(runtime).collect::<Result<_, _>>()?,
            agent_version: wire.agent_version,
            gpu_injection: gpu_injection(wire.gpu_injection)?,
            engine: (!wire.engine.is_empty()).then_some(wire.engine),
            gpu_driver: (!wire.gpu_driver.is_empty())
                .then_some(GpuDriver { version: wire.gpu_driver, cuda: wire.cuda_version }),
            devices,
        })
    }
}

impl From<GpuInjection> for v1::GpuInjection {
    fn from(injection: GpuInjection) -> Self {
        match injection {
            GpuInjection::Nvidia => Self::Nvidia,
            GpuInjection::Cdi => Self::Cdi,
            GpuInjection::Direct => Self::Direct,
        }
    }
}

fn gpu_injection(value: i32) -> Result<Option<GpuInjection>, InvalidMessage> {
    match v1::GpuInjection::try_from(value) {
        Ok(v1::GpuInjection::Unspecified) => Ok(None),
        Ok(v1::GpuInjection::Nvidia) => Ok(Some(GpuInjection::Nvidia)),
        Ok(v1::GpuInjection::Cdi) => Ok(Some(GpuInjection::Cdi)),
        Ok(v1::GpuInjection::Direct) => Ok(Some(GpuInjection::Direct)),
        Err(_) => Err(invalid("node.gpu_injection", format!("{value} is not a known value"))),
    }
}

impl From<NodeAddress> for v1::NodeAddress {
    fn from(at: NodeAddress) -> Self {
        Self { interface: at.interface, address: at.address.to_string() }
    }
}

impl TryFrom<v1::NodeAddress> for NodeAddress {
    type Error = InvalidMessage;
    fn try_from(wire: v1::NodeAddress) -> Result<Self, InvalidMessage> {
        Ok(Self { interface: wire.interface, address: address(&wire.address, "node.addresses")? })
    }
}

impl From<Device> for v1::Device {
    fn from(device: Device) -> Self {
        Self {
            id: device.id.into(),
            index: device.index,
            kind: v1::DeviceKind::from(device.kind).into(),
            model: device.model,
            memory: device.memory,
            gpu: device.gpu.map(|gpu| (*gpu).into()),
        }
    }
}

impl TryFrom<v1::Device> for Device {
    type Error = InvalidMessage;
    fn try_from(wire: v1::Device) -> Result<Self, InvalidMessage> {
        Ok(Self {
            id: id(&wire.id, "device.id")?,
            index: wire.index,
            kind: device_kind(wire.kind, "device.kind")?,
            model: wire.model,
            memory: wire.memory,
            gpu: wire.gpu.map(|gpu| gpu.try_into().map(Box::new)).transpose()?,
        })
    }
}

impl From<NodeState> for v1::NodeState {
    fn from(state: NodeState) -> Self {
        match state {
            NodeState::Ready => Self::Ready,
            NodeState::Suspect => Self::Suspect,
            NodeState::Unknown => Self::Unknown,
            NodeState::Lost => Self::Lost,
        }
    }
}

impl From<Condition> for v1::Condition {
    fn from(condition: Condition) -> Self {
        Self { name: condition.name, message: condition.message }
    }
}

impl TryFrom<v1::Condition> for Condition {
    type Error = InvalidMessage;
    fn try_from(wire: v1::Condition) -> Result<Self, InvalidMessage> {
        if wire.name.is_empty() {
            return Err(InvalidMessage::Missing { field: "condition.name" });
        }
        Ok(Self { name: wire.name, message: wire.message })
    }
}

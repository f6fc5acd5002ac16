//! CPU slots: devices that exist by declaration, so that every path runs without a GPU.

use std::collections::BTreeMap;

use convoke_model::{Device, DeviceId, DeviceKind};

use super::Devices;

/// `cpu-0` to `cpu-<n-1>`.
#[derive(Debug, Clone, Copy)]
pub struct CpuSlots {
    count: u32,
}

impl CpuSlots {
    pub fn new(count: u32) -> Self {
        Self { count }
    }
}

impl Devices for CpuSlots {
    fn inventory(&self) -> Vec<Device> {
        (0..self.count)
            .map(|index| Device {
                id: DeviceId::new(&format!("cpu-{index}")).expect("cpu-<n> is a valid device id"),
                index,
                kind: DeviceKind::Cpu,
                model: "CPU slot".to_owned(),
                memory: 0,
                gpu: None,
            })
            .collect()
    }

    fn visibility(&self, _devices: &[DeviceId]) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

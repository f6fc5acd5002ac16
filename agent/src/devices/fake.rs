//! Devices that are only claimed.

use std::collections::BTreeMap;
use std::sync::Mutex;

use convoke_model::{Device, DeviceId};

use super::Devices;

/// Whatever inventory it was last given.
#[derive(Debug)]
pub struct FakeDevices {
    inventory: Mutex<Vec<Device>>,
}

impl FakeDevices {
    pub fn new(devices: Vec<Device>) -> Self {
        Self { inventory: Mutex::new(devices) }
    }

    /// What the next inventories say.
    pub fn set(&self, inventory: Vec<Device>) {
        *self.inventory.lock().expect("nothing panics while holding it") = inventory;
    }
}

impl Devices for FakeDevices {
    fn inventory(&self) -> Vec<Device> {
        self.inventory.lock().expect("nothing panics while holding it").clone()
    }

    fn visibility(&self, devices: &[DeviceId]) -> BTreeMap<String, String> {
        let ids: Vec<_> = devices.iter().map(DeviceId::as_str).collect();
        BTreeMap::from([("NVIDIA_VISIBLE_DEVICES".to_owned(), ids.join(","))])
    }
}

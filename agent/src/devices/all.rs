//! Every kind of device that a host has, as one.

use std::collections::BTreeMap;

use convoke_model::{Device, DeviceId};

use super::Devices;

/// Devices of several kinds.
pub struct AllDevices(pub Vec<Box<dyn Devices>>);

impl Devices for AllDevices {
    fn inventory(&self) -> Vec<Device> {
        self.0.iter().flat_map(|kind| kind.inventory()).collect()
    }

    fn visibility(&self, devices: &[DeviceId]) -> BTreeMap<String, String> {
        self.0.iter().flat_map(|kind| kind.visibility(devices)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CpuSlots, FakeDevices};
    use super::*;

    #[test]
    fn a_host_offers_what_each_kind_has_and_each_makes_its_own_visible() {
        let gpu = CpuSlots::new(1).inventory().remove(0);
        let gpu = Device { id: DeviceId::new("GPU-1").unwrap(), ..gpu };
        let all = AllDevices(vec![Box::new(FakeDevices::new(vec![gpu])), Box::new(CpuSlots::new(2))]);
        let ids: Vec<String> = all.inventory().iter().map(|d| d.id.to_string()).collect();
        assert_eq!(ids, ["GPU-1", "cpu-0", "cpu-1"]);
        let chosen = [DeviceId::new("GPU-1").unwrap()];
        assert_eq!(all.visibility(&chosen)["NVIDIA_VISIBLE_DEVICES"], "GPU-1");
    }
}

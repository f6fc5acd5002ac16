//! Which replica holds which device: a device is in at most one.

use std::collections::BTreeMap;

use convoke_model::{Device, DeviceId, ReplicaKey};

/// Why devices cannot be reserved. Nothing was reserved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReservationError {
    #[error("device {0} is not on this node; its inventory may have changed since the placement")]
    Unknown(DeviceId),
    #[error("device {device} is held by job {} generation {}", holder.job, holder.generation)]
    Held { device: DeviceId, holder: ReplicaKey },
    #[error("device {0} is named twice in one replica")]
    Twice(DeviceId),
}

/// The book of reservations. All or nothing, and idempotent per replica.
#[derive(Debug, Default)]
pub struct Reservations {
    holders: BTreeMap<DeviceId, ReplicaKey>,
}

impl Reservations {
    /// Reserves `devices` for `replica`, out of `inventory`.
    pub fn reserve(
        &mut self,
        replica: &ReplicaKey,
        devices: &[DeviceId],
        inventory: &[Device],
    ) -> Result<(), ReservationError> {
        for (i, device) in devices.iter().enumerate() {
            if devices[..i].contains(device) {
                return Err(ReservationError::Twice(device.clone()));
            }
            if !inventory.iter().any(|d| d.id == *device) {
                return Err(ReservationError::Unknown(device.clone()));
            }
            if let Some(holder) = self.holders.get(device).filter(|holder| *holder != replica) {
                return Err(ReservationError::Held { device: device.clone(), holder: holder.clone() });
            }
        }
        self.holders.extend(devices.iter().map(|d| (d.clone(), replica.clone())));
        Ok(())
    }

    /// What an earlier agent gave to `replica` is its own, whatever the inventory says now: nobody may have
    /// been able to tell it.
    pub fn hold(&mut self, replica: &ReplicaKey, devices: &[DeviceId]) {
        for device in devices {
            self.holders.entry(device.clone()).or_insert_with(|| replica.clone());
        }
    }

    /// Gives back all that `replica` holds.
    pub fn release(&mut self, replica: &ReplicaKey) {
        self.holders.retain(|_, holder| holder != replica);
    }

    /// Who holds `device`.
    pub fn holder(&self, device: &DeviceId) -> Option<&ReplicaKey> {
        self.holders.get(device)
    }
}

#[cfg(test)]
mod tests {
    use convoke_model::{Generation, JobId, NodeRank};

    use super::super::{CpuSlots, Devices as _};
    use super::*;

    fn replica(job: &str) -> ReplicaKey {
        ReplicaKey { job: JobId::new(job).unwrap(), generation: Generation(2), node_rank: NodeRank(0) }
    }

    fn ids(names: &[&str]) -> Vec<DeviceId> {
        names.iter().map(|name| DeviceId::new(name).unwrap()).collect()
    }

    #[test]
    fn a_device_is_in_at_most_one_replica_and_the_holder_is_named() {
        let inventory = CpuSlots::new(3).inventory();
        let mut book = Reservations::default();
        book.reserve(&replica("a"), &ids(&["cpu-0", "cpu-1"]), &inventory).unwrap();
        book.reserve(&replica("a"), &ids(&["cpu-0", "cpu-1"]), &inventory).unwrap();
        let error = book.reserve(&replica("b"), &ids(&["cpu-2", "cpu-1"]), &inventory).unwrap_err();
        assert_eq!(error.to_string(), "device cpu-1 is held by job a generation 2");
        assert_eq!(book.holder(&ids(&["cpu-2"])[0]), None, "nothing of a refused reservation stays");
        book.release(&replica("a"));
        book.reserve(&replica("b"), &ids(&["cpu-2", "cpu-1"]), &inventory).unwrap();
    }

    #[test]
    fn a_device_that_is_not_there_or_named_twice_is_refused_by_name() {
        let inventory = CpuSlots::new(1).inventory();
        let mut book = Reservations::default();
        let unknown = book.reserve(&replica("a"), &ids(&["cpu-1"]), &inventory).unwrap_err();
        assert!(unknown.to_string().contains("device cpu-1 is not on this node"));
        let twice = book.reserve(&replica("a"), &ids(&["cpu-0", "cpu-0"]), &inventory);
        assert_eq!(twice, Err(ReservationError::Twice(ids(&["cpu-0"]).remove(0))));
    }
}

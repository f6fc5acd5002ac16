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

    /// Gives back all that `replica` holds.
    pub fn release(&mut self, replica: &ReplicaKey) {
        self.holders.retain(|_, holder| holder != replica);
    }

    /// Who holds `device`.
    pub fn holder(&self, device: &DeviceId) -> Option<&ReplicaKey> {
        self.holders.get(device)
    }
}

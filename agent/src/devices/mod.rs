//! Devices of the node: what there is, and which replica holds what.

mod all;
mod cpu;
mod fake;
mod nvml;
mod reservations;

use std::collections::BTreeMap;

use convoke_model::{Device, DeviceId};

pub use all::AllDevices;
pub use cpu::CpuSlots;
pub use fake::FakeDevices;
pub use nvml::NvmlGpus;
pub use reservations::{ReservationError, Reservations};

/// Why the devices cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DevicesError(pub String);

/// A kind of device.
pub trait Devices: Send + Sync + 'static {
    /// Every device there is, held or not, in index order.
    fn inventory(&self) -> Result<Vec<Device>, DevicesError>;

    /// Variables that make `devices`, and no others, visible to a task. They overwrite the user's.
    fn visibility(&self, devices: &[DeviceId]) -> BTreeMap<String, String>;
}

//! Devices of the node: what there is, and which replica holds what.

mod all;
mod cpu;
mod fake;
pub mod gpus;
mod reservations;

use std::collections::BTreeMap;

use convoke_model::{Device, DeviceId};

pub use all::AllDevices;
pub use cpu::CpuSlots;
pub use fake::FakeDevices;
pub use gpus::Gpus;
pub use reservations::{ReservationError, Reservations};

/// A kind of device.
pub trait Devices: Send + Sync + 'static {
    /// Every device there is, held or not, in index order. Does not block.
    fn inventory(&self) -> Vec<Device>;

    /// Variables that make `devices`, and no others, visible to a task. They overwrite the user's.
    fn visibility(&self, devices: &[DeviceId]) -> BTreeMap<String, String>;
}

//! What one look at the GPUs saw.

use std::time::Instant;

use convoke_model::{Device, GpuDriver, Timestamp};

/// All of it, whole: the next look replaces it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    pub nvml: Nvml,
    /// When the look began; `None` before the first.
    pub taken: Option<Instant>,
    pub driver: Option<GpuDriver>,
    /// This agent's, in index order. What was last known of them while NVML does not answer.
    pub gpus: Vec<Gpu>,
    /// Those of the host that are not this agent's.
    pub others: Vec<Device>,
}

/// Whether the library answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Nvml {
    /// It was not asked yet.
    #[default]
    Opening,
    /// There is none, and nothing says that there should be.
    Absent,
    /// Why it does not answer, and what to do.
    Down(String),
    Up,
}

/// One of this agent's GPUs.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    pub device: Device,
    /// The newest look that succeeded.
    pub sample: Option<Sample>,
    /// Why it cannot be looked at.
    pub trouble: Option<Trouble>,
    pub last_xid: Option<Xid>,
    /// The first one since NVML was opened after which it should not be used, or not before others.
    pub grave_xid: Option<u64>,
}

impl Gpu {
    pub fn new(device: Device) -> Self {
        Self { device, sample: None, trouble: None, last_xid: None, grave_xid: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It fell off the bus, or NVML lists it no longer.
    Lost,
    /// It works again only after a reset.
    ResetRequired,
    /// Calls fail, with this error.
    Failing(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Xid {
    pub code: u64,
    pub at: Timestamp,
}

/// Numbers of one moment; `None` is what the GPU does not tell. Units are those of `GpuSample` in
/// the proto.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    pub at: Timestamp,
    pub utilization: Option<u32>,
    pub memory_utilization: Option<u32>,
    pub memory_used: u64,
    pub memory_total: u64,
    pub power_mw: Option<u32>,
    pub power_limit_mw: Option<u32>,
    pub temperature: Option<u32>,
    pub sm_clock: Option<u32>,
    pub memory_clock: Option<u32>,
    pub nvlink: Option<Traffic>,
    pub pcie: Option<Traffic>,
    pub throttle_reasons: Vec<&'static str>,
    pub processes: Vec<Process>,
    pub errors: Errors,
}

/// Bytes per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub sent: u64,
    pub received: u64,
}

/// A process that has a context on a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// Bytes; `None` where the driver does not tell.
    pub memory: Option<u64>,
}

/// What its memory has been through. Read less often than the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Errors {
    /// Since the driver was loaded.
    pub corrected: Option<u64>,
    pub uncorrected: Option<u64>,
    /// Over its life.
    pub remapped_rows: Option<u32>,
    /// Rows or pages are replaced at the next reset.
    pub reset_pending: bool,
    /// A row could not be replaced.
    pub remap_failed: bool,
}

//! NVIDIA's GPUs as NVML tells them.
//!
//! Calls to NVML may block for seconds, and for good on a GPU that hangs: a thread of its own makes
//! all of them (`owner`) and publishes what it saw, once a second. Everybody else reads that and
//! never waits. While NVML does not answer, what it last said stays: the inventory, so that running
//! work keeps its devices, and the node's condition says that nobody can tell how they are.

mod clean;
mod fields;
mod health;
mod inventory;
mod library;
mod owner;
mod report;
mod sample;
mod state;
mod subset;
mod watch;
mod xid;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use convoke_model::{Device, DeviceCondition, DeviceId, GpuDriver};
use tokio::sync::watch as channel;
use tokio::time::timeout;

use super::Devices;

pub use clean::{Cleaner, Traces};
pub use report::report;
pub use state::{Gpu, Nvml, Process, Sample, State, Trouble, Xid};
pub use subset::{Subset, SubsetError};
pub use watch::keep_conditions;

/// How long the agent's start waits for the first answer: without persistence mode a driver takes
/// some seconds for each GPU.
const FIRST_LOOK: Duration = Duration::from_secs(20);

/// What the agent was told about GPUs.
#[derive(Debug, Clone, Default)]
pub struct GpuOptions {
    /// The library, if not where it usually is.
    pub library: Option<PathBuf>,
    /// Those that this agent owns; `None` is all.
    pub subset: Option<Subset>,
}

/// Handle to the thread that owns NVML; cheap to clone. The thread ends with the last handle.
#[derive(Debug, Clone)]
pub struct Gpus {
    state: channel::Receiver<Arc<State>>,
    problems: channel::Sender<Vec<DeviceCondition>>,
    /// One request that waits is as good as several.
    requests: SyncSender<()>,
}

impl Gpus {
    /// Starts the thread and waits for its first look, at most 20 s: NVML may be slow, or hang.
    ///
    /// # Errors
    /// The subset names GPUs that NVML does not list, or no thread could be started.
    pub async fn open(options: GpuOptions) -> Result<Self, SubsetError> {
        let (requests, received) = std::sync::mpsc::sync_channel(1);
        let (sender, mut state) = channel::channel(Arc::new(State::default()));
        let subset = options.subset.clone();
        std::thread::Builder::new()
            .name("nvml".to_owned())
            .spawn(move || owner::run(&options, &received, &sender))
            .map_err(SubsetError::Thread)?;
        // A thread that is late goes on, and so does the agent.
        let _ = timeout(FIRST_LOOK, state.changed()).await;
        let seen = state.borrow().clone();
        if let (Some(subset), Nvml::Up) = (&subset, &seen.nvml) {
            subset.check(&seen.others, &seen.gpus)?;
        }
        Ok(Self { state, problems: channel::Sender::new(Vec::new()), requests })
    }

    /// What was seen last, now and after every look.
    pub fn state(&self) -> channel::Receiver<Arc<State>> {
        self.state.clone()
    }

    /// Asks for a look now instead of within a second.
    pub fn look(&self) {
        // Full: one is about to be made. Disconnected: the thread has crashed, which shows as silence.
        let _ = self.requests.try_send(());
    }

    /// What is wrong with single GPUs, now and after every change.
    pub fn problems(&self) -> channel::Receiver<Vec<DeviceCondition>> {
        self.problems.subscribe()
    }

    pub fn driver(&self) -> Option<GpuDriver> {
        self.state.borrow().driver.clone()
    }
}

impl Devices for Gpus {
    fn inventory(&self) -> Vec<Device> {
        self.state.borrow().gpus.iter().map(|gpu| gpu.device.clone()).collect()
    }

    /// CUDA's numbering then follows the placement's, whatever the host's is. What else of the host a
    /// container sees is its injection's affair.
    fn visibility(&self, devices: &[DeviceId]) -> BTreeMap<String, String> {
        visibility(devices)
    }
}

fn visibility(devices: &[DeviceId]) -> BTreeMap<String, String> {
    let uuids: Vec<&str> = devices.iter().map(DeviceId::as_str).filter(|id| id.starts_with("GPU-")).collect();
    match uuids.as_slice() {
        [] => BTreeMap::new(),
        uuids => BTreeMap::from([("CUDA_VISIBLE_DEVICES".to_owned(), uuids.join(","))]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_sees_the_gpus_in_the_order_of_the_placement_and_cpu_slots_are_none() {
        let ids = ["GPU-b", "cpu-0", "GPU-a"].map(|id| DeviceId::new(id).unwrap());
        assert_eq!(visibility(&ids)["CUDA_VISIBLE_DEVICES"], "GPU-b,GPU-a");
        assert!(visibility(&ids[1..2]).is_empty());
    }
}

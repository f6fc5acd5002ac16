//! The thread that owns NVML. It opens the library, looks once a second and on request, and opens it
//! again after it has failed: a driver that was updated, a GPU that is lost.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use convoke_model::{Device as Listed, DeviceId};
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{EventSet, Nvml as Library};
use tokio::sync::watch as channel;
use tracing::{info, warn};

use super::GpuOptions;
use super::fields::Counters;
use super::inventory::{self, Found};
use super::library::{self, NoNvml};
use super::sample::{self, Turn};
use super::state::{Gpu, Nvml, Sample, State, Trouble, Xid};
use super::xid::{Gravity, gravity};
use crate::clock::now;

const EVERY: Duration = Duration::from_secs(1);
/// Memory errors are read every so many looks.
const ERRORS_EVERY: u64 = 5;
/// Pause before a library that does not answer is opened again.
const RETRY: Duration = Duration::from_secs(2);
/// A GPU that was lost and is back shows only once NVML is opened anew.
const REOPEN: Duration = Duration::from_secs(30);
/// Events taken in one look; what is left comes with the next.
const MAX_EVENTS: usize = 64;

/// How a session with the library ended.
enum Ended {
    /// The agent ends.
    Closed,
    Failed(NvmlError),
    /// Something has changed that only a new session sees.
    Renew,
}

/// Runs until every handle is gone.
pub(super) fn run(options: &GpuOptions, requests: &Receiver<()>, out: &channel::Sender<Arc<State>>) {
    let mut state = State::default();
    loop {
        state.taken = Some(Instant::now());
        state.nvml = match library::open(options) {
            Err(NoNvml::Absent) => Nvml::Absent,
            Err(NoNvml::Down(why)) => Nvml::Down(why),
            Ok(library) => match session(&library, options, &mut state, requests, out) {
                Ended::Closed => return,
                Ended::Renew => continue,
                Ended::Failed(error) => Nvml::Down(library::explain(&error)),
            },
        };
        out.send_replace(Arc::new(state.clone()));
        if let Err(RecvTimeoutError::Disconnected) = requests.recv_timeout(RETRY) {
            return;
        }
    }
}

fn session(
    library: &Library,
    options: &GpuOptions,
    state: &mut State,
    requests: &Receiver<()>,
    out: &channel::Sender<Arc<State>>,
) -> Ended {
    let mut session = match Session::open(library, options, state) {
        Ok(session) => session,
        Err(error) => return Ended::Failed(error),
    };
    let opened = Instant::now();
    loop {
        let began = Instant::now();
        if let Err(ended) = session.look(state) {
            return ended;
        }
        state.nvml = Nvml::Up;
        state.taken = Some(began);
        out.send_replace(Arc::new(state.clone()));
        if state.gpus.iter().any(|gpu| gpu.trouble.is_some()) && opened.elapsed() > REOPEN {
            return Ended::Renew;
        }
        match requests.recv_timeout(EVERY.saturating_sub(began.elapsed())) {
            Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ended::Closed,
        }
    }
}

/// The library while it answers.
struct Session<'nvml> {
    library: &'nvml Library,
    /// GPUs that NVML counts, ours or not, answering or not.
    count: u32,
    found: Vec<Seen<'nvml>>,
    /// `None` where this driver has no events.
    events: Option<EventSet<'nvml>>,
    looks: u64,
}

struct Seen<'nvml> {
    gpu: Found<'nvml>,
    last: Option<(Sample, Counters)>,
}

impl<'nvml> Session<'nvml> {
    fn open(library: &'nvml Library, options: &GpuOptions, state: &mut State) -> Result<Self, NvmlError> {
        let count = library.device_count()?;
        let mut found = inventory::list(library)?;
        let listed: Vec<Listed> = found.iter().map(|gpu| gpu.listed.clone()).collect();
        let all = renumbered(listed, state);
        for gpu in &mut found {
            gpu.listed.index = all.iter().find(|d| d.id == gpu.listed.id).map_or(0, |d| d.index);
        }
        let is_own = |device: &Listed| options.subset.as_ref().is_none_or(|subset| subset.contains(device));
        let (own, others): (Vec<Listed>, Vec<Listed>) = all.into_iter().partition(is_own);
        found.retain(|gpu| is_own(&gpu.listed));
        state.driver = inventory::driver(library);
        let first = state.nvml != Nvml::Up;
        // What Xid errors said holds until NVML failed or the agent was restarted: a reset needs either.
        let before = if first { Vec::new() } else { std::mem::take(&mut state.gpus) };
        let renewed = |device: Listed| match before.iter().find(|gpu| gpu.device.id == device.id) {
            Some(old) => Gpu { device, ..old.clone() },
            None => Gpu::new(device),
        };
        state.gpus = own.into_iter().map(renewed).collect();
        state.others = others;
        if first {
            let driver = state.driver.as_ref().map_or("", |driver| driver.version.as_str());
            info!(gpus = state.gpus.len(), driver, "NVML answers");
        }
        let events = events(library, &found);
        let found = found.into_iter().map(|gpu| Seen { gpu, last: None }).collect();
        Ok(Self { library, count, found, events, looks: 0 })
    }

    fn look(&mut self, state: &mut State) -> Result<(), Ended> {
        if self.library.device_count().map_err(Ended::Failed)? != self.count {
            return Err(Ended::Renew);
        }
        let turns = u64::try_from(self.found.len().max(1)).unwrap_or(1);
        let mut failed = Vec::new();
        for gpu in &mut state.gpus {
            let Some(index) = self.found.iter().position(|seen| seen.gpu.listed.id == gpu.device.id) else {
                gpu.trouble = Some(Trouble::Lost);
                continue;
            };
            let turn = Turn {
                errors: self.looks.is_multiple_of(ERRORS_EVERY),
                pcie: self.looks % turns == index as u64,
            };
            let seen = &mut self.found[index];
            match sample::look(&seen.gpu.handle, seen.last.as_ref(), turn) {
                Ok((sample, counters)) => {
                    gpu.sample = Some(sample.clone());
                    seen.last = Some((sample, counters));
                    gpu.trouble = None;
                }
                Err(error) if sample::ends_session(&error) => return Err(Ended::Failed(error)),
                Err(error) => {
                    gpu.trouble = Some(trouble(&error));
                    failed.push(error);
                }
            }
        }
        self.looks += 1;
        self.take_events(state);
        // One that fails is a GPU's trouble; all that fail are the driver's.
        match failed.pop() {
            Some(error) if failed.len() + 1 == self.found.len() && !is_of_one(&error) => {
                Err(Ended::Failed(error))
            }
            _ => Ok(()),
        }
    }

    fn take_events(&mut self, state: &mut State) {
        let Some(events) = &self.events else { return };
        for _ in 0..MAX_EVENTS {
            let event = match events.wait(0) {
                Ok(event) => event,
                Err(NvmlError::Timeout) => return,
                Err(error) => {
                    warn!("Xid errors are not seen any more until NVML is opened again: {error}");
                    self.events = None;
                    return;
                }
            };
            let Some(XidError::Value(code)) = event.event_data else { continue };
            let Ok(uuid) = event.device.uuid() else { continue };
            let Some(gpu) = state.gpus.iter_mut().find(|gpu| gpu.device.id.as_str() == uuid) else {
                continue;
            };
            warn!(gpu = uuid, index = gpu.device.index, "Xid {code}: {}", super::xid::meaning(code));
            gpu.last_xid = Some(Xid { code, at: now() });
            let worst = gpu.grave_xid.map_or(Gravity::Harmless, gravity);
            if gravity(code) > worst {
                gpu.grave_xid = Some(code);
            }
        }
    }
}

/// The error says by itself that the GPU is at fault.
fn is_of_one(error: &NvmlError) -> bool {
    matches!(error, NvmlError::GpuLost | NvmlError::ResetRequired)
}

fn trouble(error: &NvmlError) -> Trouble {
    match error {
        NvmlError::GpuLost => Trouble::Lost,
        NvmlError::ResetRequired => Trouble::ResetRequired,
        error => Trouble::Failing(error.to_string()),
    }
}

/// What is listed now, and what was listed before in this agent's life, numbered as before: a GPU that
/// is lost must not give its number to its neighbour.
fn renumbered(mut listed: Vec<Listed>, state: &State) -> Vec<Listed> {
    let known = state.gpus.iter().map(|gpu| &gpu.device).chain(&state.others);
    let gone: Vec<Listed> = known.filter(|known| !is_listed(&listed, &known.id)).cloned().collect();
    listed.extend(gone);
    listed.sort_by(|a, b| inventory::bus(a).cmp(inventory::bus(b)));
    for (index, device) in (0..).zip(&mut listed) {
        device.index = index;
    }
    listed
}

fn is_listed(listed: &[Listed], id: &DeviceId) -> bool {
    listed.iter().any(|device| device.id == *id)
}

fn events<'nvml>(library: &'nvml Library, found: &[Found<'nvml>]) -> Option<EventSet<'nvml>> {
    let wanted = EventTypes::CRITICAL_XID_ERROR;
    let mut set = library.create_event_set().ok();
    for gpu in found {
        let supported = gpu.handle.supported_event_types().is_ok_and(|types| types.contains(wanted));
        if let Some(registered) = set.take() {
            set = if supported {
                gpu.handle.register_events(wanted, registered).ok()
            } else {
                Some(registered)
            };
        }
    }
    if set.is_none() {
        info!("this driver does not report Xid errors");
    }
    set
}

#[cfg(test)]
mod tests {
    use convoke_model::{DeviceKind, GpuInfo};

    use super::*;

    fn listed(id: &str, bus: &str) -> Listed {
        let info = Some(Box::new(GpuInfo { pci_bus_id: bus.to_owned(), ..GpuInfo::default() }));
        let model = "H100".to_owned();
        Listed {
            id: DeviceId::new(id).unwrap(),
            index: 0,
            kind: DeviceKind::Gpu,
            model,
            memory: 0,
            gpu: info,
        }
    }

    #[test]
    fn a_gpu_that_is_listed_no_longer_keeps_its_number_and_so_do_the_others() {
        let all = vec![listed("GPU-b", "02"), listed("GPU-a", "01"), listed("GPU-c", "03")];
        let numbers = |devices: &[Listed]| -> Vec<(String, u32)> {
            devices.iter().map(|d| (d.id.to_string(), d.index)).collect()
        };
        let first = renumbered(all.clone(), &State::default());
        let state = State { gpus: first.into_iter().map(Gpu::new).collect(), ..State::default() };
        let second = renumbered(vec![all[2].clone(), all[0].clone()], &state);
        let expected = [("GPU-a", 0), ("GPU-b", 1), ("GPU-c", 2)].map(|(id, n)| (id.to_owned(), n));
        assert_eq!(numbers(&second), expected);
    }
}

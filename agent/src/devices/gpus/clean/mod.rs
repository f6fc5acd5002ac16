//! A GPU is free only when it is proven clean: NVML shows no process on it, and its memory is back at
//! its floor.
//!
//! When a replica ends, its GPUs are marked; each later look judges them. What is left of the replica
//! (processes of its containers, or with its tasks' marker) is killed, nothing else ever is. A GPU that
//! is not clean within a bound is quarantined: the replica's end is reported, and nothing is placed
//! on the GPU until a look finds it clean. GPUs that were never ours to clean are judged too: one that
//! somebody else holds is busy.

mod judge;
mod traces;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use convoke_model::{DeviceCondition, DeviceId, ReplicaKey};
use tokio::sync::watch as channel;
use tokio::time::timeout;
use tracing::{info, warn};

use super::Gpus;
use super::report::who;
use super::state::{Gpu, Nvml, Process, State};
use judge::{BOUND, Holder, Look, Verdict, judge};

pub use traces::Traces;

const UNSEEN: &str = "NVML does not tell how it is";

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cleaner {
    gpus: Gpus,
    book: Arc<Mutex<BTreeMap<DeviceId, Entry>>>,
    /// Changes with every judgement.
    judged: channel::Sender<u64>,
}

/// What is known of one GPU.
#[derive(Debug, Default)]
struct Entry {
    mark: Option<Mark>,
    floor: Option<u64>,
    problem: Option<Problem>,
}

/// A replica has ended on it.
#[derive(Debug)]
struct Mark {
    replica: ReplicaKey,
    traces: Traces,
    since: Instant,
    /// What was killed already: it may take a while to go.
    killed: BTreeSet<u32>,
}

/// Why nothing may be placed on it. The text stays as long as the reason does.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    name: &'static str,
    reason: Reason,
    message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reason {
    Own(Vec<u32>),
    Foreign(Vec<u32>),
    Memory,
    Unseen,
}

impl Cleaner {
    pub fn new(gpus: Gpus) -> Self {
        Self { gpus, book: Arc::default(), judged: channel::Sender::new(0) }
    }

    /// A replica has ended: its GPUs are to be proven clean.
    pub fn begin(&self, replica: &ReplicaKey, devices: &[DeviceId], traces: Traces) {
        let mut book = self.book();
        for device in devices {
            let mark = Mark {
                replica: replica.clone(),
                traces: traces.clone(),
                since: Instant::now(),
                killed: BTreeSet::new(),
            };
            let entry = book.entry(device.clone()).or_default();
            (entry.mark, entry.problem) = (Some(mark), None);
        }
        drop(book);
        self.gpus.look();
    }

    /// Waits until each device is judged since its replica ended; at most some 15 s. Then says what
    /// keeps one from use.
    ///
    /// # Errors
    /// The message of what is wrong with the first that may not be used.
    pub async fn proven(&self, devices: &[DeviceId]) -> Result<(), String> {
        let mut judged = self.judged.subscribe();
        let waiting = async {
            while self.is_open(devices) {
                if judged.changed().await.is_err() {
                    break;
                }
            }
        };
        if timeout(2 * BOUND, waiting).await.is_err() {
            return Err("nobody has judged whether its GPUs are clean".to_owned());
        }
        let book = self.book();
        let problems = devices.iter().filter_map(|device| book.get(device)?.problem.as_ref());
        match problems.into_iter().next() {
            Some(problem) => Err(format!("{}: {}", problem.name, problem.message)),
            None => Ok(()),
        }
    }

    /// Some device's judgement is still to come.
    fn is_open(&self, devices: &[DeviceId]) -> bool {
        let book = self.book();
        devices.iter().any(|device| book.get(device).is_some_and(Entry::is_open))
    }

    pub(super) fn any_open(&self) -> bool {
        self.book().values().any(Entry::is_open)
    }

    /// Judges every GPU by what was seen; kills what ended replicas left. `held` says that a replica has
    /// the GPU. Reads `/proc`, which may block.
    pub(super) fn judge(&self, seen: &State, held: &dyn Fn(&DeviceId) -> bool) -> Vec<DeviceCondition> {
        let mut found = Vec::new();
        for gpu in &seen.gpus {
            let id = &gpu.device.id;
            let (traces, suspect) = self.known(id);
            // A replica that has just reserved a GPU with a problem must still find the problem there.
            if !suspect && held(id) {
                continue;
            }
            // Not while the book is held: whoever ends or prepares a replica waits for it.
            let holders = holders(gpu, traces.as_ref());
            let mut book = self.book();
            let entry = book.entry(id.clone()).or_default();
            entry.judge(gpu, seen, &holders);
            found.extend(entry.problem.as_ref().map(|problem| DeviceCondition {
                device: id.clone(),
                name: problem.name.to_owned(),
                message: format!("GPU {}: {}", gpu.device.index, problem.message),
                blocks: true,
            }));
        }
        // GPUs that NVML never listed in this life cannot be judged at all.
        let listed = |id: &DeviceId| seen.gpus.iter().any(|gpu| gpu.device.id == *id);
        for (device, entry) in self.book().iter_mut().filter(|(id, _)| !listed(id)) {
            entry.overdue(device, Reason::Unseen, UNSEEN);
        }
        self.judged.send_modify(|n| *n += 1);
        found
    }

    /// What an ended replica left its traces as, and whether the GPU is under suspicion.
    fn known(&self, device: &DeviceId) -> (Option<Traces>, bool) {
        let book = self.book();
        let Some(entry) = book.get(device) else { return (None, false) };
        let traces = entry.mark.as_ref().map(|mark| mark.traces.clone());
        (traces, entry.mark.is_some() || entry.problem.is_some())
    }

    fn book(&self) -> MutexGuard<'_, BTreeMap<DeviceId, Entry>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_open(&self) -> bool {
        self.mark.is_some() && self.problem.is_none()
    }

    fn judge(&mut self, gpu: &Gpu, seen: &State, holders: &[Holder]) {
        let id = &gpu.device.id;
        // A look that began before the replica's end proves nothing.
        let in_time = |taken: Instant| self.mark.as_ref().is_none_or(|mark| taken > mark.since);
        let fresh = seen.nvml == Nvml::Up && gpu.trouble.is_none() && seen.taken.is_some_and(in_time);
        let Some(sample) = gpu.sample.as_ref().filter(|_| fresh) else {
            return self.overdue(id, Reason::Unseen, UNSEEN);
        };
        let look = Look { holders, used: sample.memory_used, floor: self.floor };
        let floor = judge::floor(&look);
        match judge(&look) {
            Verdict::Clean => self.clean(id),
            Verdict::Own(pids) => {
                if let Some(mark) = &mut self.mark {
                    mark.kill(id, &pids);
                }
                let text = format!("{} is left of its last job and does not go", list(holders, &pids));
                self.overdue(id, Reason::Own(pids), &text);
            }
            Verdict::Foreign(pids) => {
                self.mark = None;
                let text = format!("{} holds it, and is none of this cluster's jobs", list(holders, &pids));
                self.set("GpuBusy", Reason::Foreign(pids), text);
            }
            Verdict::Memory(used) => {
                let used = bytesize::ByteSize(used).display().iec();
                let text =
                    format!("{used} of its memory are in use, and NVML shows no process that uses them");
                match self.mark {
                    Some(_) => self.overdue(id, Reason::Memory, &text),
                    None => self.set("GpuQuarantined", Reason::Memory, text),
                }
            }
        }
        self.floor = floor;
    }

    fn clean(&mut self, device: &DeviceId) {
        if let Some(mark) = self.mark.take() {
            let after = mark.since.elapsed();
            info!(job = %mark.replica.job, gpu = %device, ?after, "proven clean");
        }
        self.problem = None;
    }

    /// Not clean: a problem once the bound has passed.
    fn overdue(&mut self, device: &DeviceId, reason: Reason, text: &str) {
        let Some(mark) = &self.mark else {
            // What is wrong with NVML, or with the GPU, is told elsewhere.
            if reason == Reason::Unseen {
                return;
            }
            return self.set("GpuQuarantined", reason, text.to_owned());
        };
        if mark.since.elapsed() >= BOUND {
            let replica = &mark.replica;
            let text = format!(
                "not clean {} s after job {} generation {} ended: {text}; it is used again once it is clean, and \
                 `nvidia-smi --gpu-reset` may make it so",
                BOUND.as_secs(),
                replica.job,
                replica.generation
            );
            if self.problem.is_none() {
                warn!(gpu = %device, "quarantined");
            }
            self.set("GpuQuarantined", reason, text);
        }
    }

    fn set(&mut self, name: &'static str, reason: Reason, message: String) {
        let same = self.problem.as_ref().is_some_and(|old| old.name == name && old.reason == reason);
        if !same {
            self.problem = Some(Problem { name, reason, message });
        }
    }
}

impl Mark {
    fn kill(&mut self, device: &DeviceId, pids: &[u32]) {
        for pid in pids.iter().filter(|pid| self.killed.insert(**pid)) {
            warn!(job = %self.replica.job, gpu = %device, pid, "killing what the job left on its GPU");
            self.traces.kill(*pid);
        }
    }
}

fn holders(gpu: &Gpu, traces: Option<&Traces>) -> Vec<Holder> {
    let holder = |process: &Process| {
        let (user, name) = who(process.pid);
        let own = traces.is_some_and(|traces| traces.have(process.pid));
        Holder { process: process.clone(), user, name, own }
    };
    gpu.sample.iter().flat_map(|sample| &sample.processes).map(holder).collect()
}

/// The named among the holders.
fn list(holders: &[Holder], pids: &[u32]) -> String {
    const SHOWN: usize = 4;
    let named: Vec<String> =
        holders.iter().filter(|h| pids.contains(&h.process.pid)).map(Holder::describe).collect();
    match named.len().saturating_sub(SHOWN) {
        0 => named.join(", "),
        more => format!("{}, and {more} more", named[..SHOWN].join(", ")),
    }
}

#[cfg(test)]
mod tests;

//! Checkpoints that training does not wait for.
//!
//! Parameters and optimiser are copied within the device between two steps, some microseconds, then over
//! the bus on a stream of their own into pinned memory; a thread writes them as [`State::save`] does,
//! and the agent uploads what it finds. One is in flight: a disk takes tens of milliseconds for what
//! hundreds of steps pass in, and a later state is worth more than a queue of earlier ones, so what is
//! due meanwhile is left out. The checkpoint at the end of training, or of a stop, is never one of these.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaStream};

use super::network::GpuNetwork;
use super::order;
use crate::device::cuda::{Buffer, CudaError, Doing as _, HostWords};
use crate::mnist::model::PARAMETERS;
use crate::mnist::progress::Progress;
use crate::mnist::run::TrainError;
use crate::mnist::state::State;

/// At most one checkpoint on its way to disk.
pub(super) struct Snapshots {
    /// Parameters and both averages, in the device's memory.
    staging: Buffer,
    host: Arc<HostWords>,
    copies: Arc<CudaStream>,
    phase: Phase,
    /// Checkpoints that were due while another was in flight.
    pub(super) left_out: u64,
}

enum Phase {
    Free,
    /// Queued behind this step, which may not be done.
    Copying {
        step: u64,
        directory: PathBuf,
        copied: CudaEvent,
    },
    Writing(JoinHandle<Result<u64, TrainError>>),
}

impl Snapshots {
    pub(super) fn new(network: &GpuNetwork) -> Result<Self, CudaError> {
        let gpu = &network.gpu;
        Ok(Self {
            staging: Buffer::zeros(&gpu.stream, 3 * PARAMETERS, 4)?,
            host: Arc::new(HostWords::zeros(&gpu.context, 3 * PARAMETERS)?),
            copies: gpu.context.new_stream().doing("making a stream")?,
            phase: Phase::Free,
            left_out: 0,
        })
    }

    /// Copies what `network` will be when `step`, the latest queued, is done, or leaves it out.
    pub(super) fn take(&mut self, network: &GpuNetwork, step: u64, to: &Path) -> Result<(), TrainError> {
        if !matches!(self.phase, Phase::Free) {
            self.left_out += 1;
            return Ok(());
        }
        let gpu = &network.gpu;
        for (i, buffer) in [&network.parameters, &network.first, &network.second].into_iter().enumerate() {
            self.staging.copy_from(&gpu.stream, i * 4 * PARAMETERS, buffer)?;
        }
        gpu.order(&gpu.stream, &self.copies)?;
        self.staging.read_into(&self.copies, &self.host)?;
        // The thread that waits for it is to sleep, not to spin.
        let copied = self.copies.record_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC));
        let copied = copied.doing("recording an event")?;
        self.phase = Phase::Copying { step, directory: to.to_owned(), copied };
        Ok(())
    }

    /// The step of `progress` is done: if it was copied, it is written from here on.
    pub(super) fn stepped(&mut self, progress: &Progress) {
        if !matches!(&self.phase, Phase::Copying { step, .. } if *step == progress.step) {
            return;
        }
        let Phase::Copying { directory, copied, .. } = std::mem::replace(&mut self.phase, Phase::Free) else {
            return;
        };
        let (host, progress) = (Arc::clone(&self.host), progress.clone());
        let write = move || {
            copied.synchronize().doing("copying a checkpoint")?;
            state(&host).save(&directory, &progress)?;
            Ok(progress.step)
        };
        self.phase = Phase::Writing(std::thread::spawn(write));
    }

    /// The step of a checkpoint that has been written since, without waiting.
    pub(super) fn written(&mut self) -> Result<Option<u64>, TrainError> {
        match &self.phase {
            Phase::Writing(thread) if thread.is_finished() => self.settle(),
            _ => Ok(None),
        }
    }

    /// Waits for what is in flight. One whose step a stop prevented is forgotten.
    pub(super) fn settle(&mut self) -> Result<Option<u64>, TrainError> {
        match std::mem::replace(&mut self.phase, Phase::Free) {
            Phase::Free => Ok(None),
            Phase::Copying { copied, .. } => {
                copied.synchronize().doing("copying a checkpoint")?;
                Ok(None)
            }
            Phase::Writing(thread) => {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map(Some)
            }
        }
    }
}

impl Drop for Snapshots {
    /// What is freed here is used on a stream that freeing does not wait for.
    fn drop(&mut self) {
        // An error is that of a step, which is told already.
        let _ = self.copies.synchronize();
    }
}

fn state(host: &HostWords) -> State<f32> {
    let mut parts = host.chunks_exact(PARAMETERS).map(|part| {
        order::from_device(part.iter().map(|x| f32::from_bits(x.load(Ordering::Relaxed))).collect())
    });
    let mut next = || parts.next().expect("three were copied");
    State { parameters: next(), first: next(), second: next() }
}

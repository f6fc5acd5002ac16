//! Training on a GPU: the same steps as [`super::Trainer`]'s, queued ahead and followed from afar.
//!
//! **What lives where.** Data set, order of the epoch, parameters, optimiser and the count of steps live
//! in the device's memory, so a step needs nothing from the host and is one graph, captured once. Three
//! things lie in host memory that both sides see: the wish to stop (the host writes), how many batches
//! of the epoch are done, and each one's loss (the device writes).
//!
//! **Streams.** [`Gpu::stream`] has the steps, one after the other. With other ranks [`Gpu::side`] has
//! the sums over them, in two buckets: the dense layers' (95 % of the bytes, and the loss and the wish
//! to stop) while the convolutions' backward pass runs, then the convolutions'.
//!
//! **The host** queues steps up to `AHEAD` of those done, and reads the losses as they are posted. It
//! waits for the device only where [`Device::advance`] ends: at an epoch's end. Checkpoints are written
//! behind the steps (`snapshot`).
//!
//! **A stop** is agreed upon as on the CPU: the wishes are summed with the gradient, so all ranks see
//! them in the same step. That step is done as any other; those already queued behind it change nothing
//! (`Control::frozen`), and the host forgets them.
//!
//! **Failures.** A fault of the device is the error of the next call, after which the context is of no
//! use: the process ends, the next generation resumes. Other ranks are watched by [`Nccl`]; alone, a
//! step that does not end within the same time is an error.

mod bench;
mod network;
mod order;
mod snapshot;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

pub use self::bench::bench;
pub use self::network::{Data, GpuNetwork, Post};
use self::snapshot::Snapshots;
use super::idx::Digits;
use super::model::{PARAMETERS, initial, views};
use super::network::{CLASSES, HIDDEN};
use super::progress::Progress;
use super::run::{Device, Moment, Stretch, Tell, TrainError};
use super::state::State;
use crate::Sampler;
use crate::collective::nccl::Nccl;
use crate::device::Precision;
use crate::device::cpu::linear_forward;
use crate::device::cuda::{CudaError, Gpu, Graph, HostWords, Launch};

/// Steps queued beyond those done: milliseconds of work, and below what makes the driver wait.
const AHEAD: u64 = 256;
/// Between looks at what was posted: some steps, and far less than [`AHEAD`] of them.
const LOOK: Duration = Duration::from_micros(200);

/// A rank's share of the training, on its GPU.
pub struct GpuTrainer {
    // Graphs go before the communicator whose work they hold.
    graph: Option<Graph>,
    ranks: Ranks,
    data: Option<Data>,
    post: Post,
    snapshots: Snapshots,
    network: GpuNetwork,
    progress: Progress,
    timeout: Duration,
}

impl Drop for GpuTrainer {
    /// Steps that are still queued write to the host's memory. They end: where a peer does not come, the watchdog aborts
    /// them.
    fn drop(&mut self) {
        if let Ranks::Nccl { nccl, .. } = &self.ranks {
            nccl.alive();
        }
        // An error is that of a step, which is told already.
        let _ = self.network.gpu.wait();
    }
}

/// The other ranks.
pub enum Ranks {
    Alone,
    Nccl { rank: u32, world_size: u32, nccl: Nccl },
}

impl Ranks {
    fn rank(&self) -> u32 {
        if let Self::Nccl { rank, .. } = self { *rank } else { 0 }
    }

    fn world_size(&self) -> u32 {
        if let Self::Nccl { world_size, .. } = self { *world_size } else { 1 }
    }
}

impl GpuTrainer {
    /// At the start of training. A step that is not done within `timeout` is an error.
    pub fn new(
        gpu: Gpu,
        ranks: Ranks,
        precision: Precision,
        batch: u32,
        seed: u64,
        timeout: Duration,
    ) -> Result<Self, CudaError> {
        let words = |len| HostWords::zeros(&gpu.context, len);
        let post = Post { stop: words(1)?, posted: words(2)?, losses: words(1)? };
        let zeros = vec![0.0; PARAMETERS];
        let network = GpuNetwork::new(gpu, precision, batch)?;
        let mut trainer = Self {
            graph: None,
            progress: Progress::start(seed, ranks.world_size(), batch),
            ranks,
            data: None,
            post,
            snapshots: Snapshots::new(&network)?,
            network,
            timeout,
        };
        trainer.set_state(&State { parameters: initial(seed), first: zeros.clone(), second: zeros })?;
        Ok(trainer)
    }

    /// Parameters and optimiser, in PyTorch's order.
    pub fn state(&self) -> Result<State<f32>, CudaError> {
        let network = &self.network;
        let read = |buffer: &crate::device::cuda::Buffer| {
            Ok::<_, CudaError>(order::from_device(buffer.read_floats(&network.gpu.stream)?))
        };
        Ok(State {
            parameters: read(&network.parameters)?,
            first: read(&network.first)?,
            second: read(&network.second)?,
        })
    }

    fn set_state(&mut self, state: &State<f32>) -> Result<(), CudaError> {
        let network = &mut self.network;
        let stream = &network.gpu.stream;
        network.parameters.write_floats(stream, &order::to_device(&state.parameters))?;
        network.first.write_floats(stream, &order::to_device(&state.first))?;
        network.second.write_floats(stream, &order::to_device(&state.second))
    }

    /// Lays out the epoch on the device, and records the step the first time.
    fn begin(&mut self, stretch: &Stretch<'_>) -> Result<(), TrainError> {
        let stream = self.network.gpu.stream.clone();
        if self.data.is_none() {
            self.data = Some(Data::upload(&stream, stretch.digits)?);
            self.post.losses = HostWords::zeros(&self.network.gpu.context, stretch.digits.len())?;
        }
        let data = self.data.as_mut().expect("uploaded above");
        data.set_order(&stream, stretch.order)?;
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let (done, samples) = (count(self.progress.batch), count(stretch.order.len() as u64));
        data.set_place(&stream, done, samples, self.progress.step)?;
        self.post.posted[0].store(0, Ordering::Relaxed);
        self.post.posted[1].store(done, Ordering::Relaxed);
        if self.graph.is_none() {
            // NCCL connects at its first use, which cannot be in a capture.
            if let Ranks::Nccl { nccl, .. } = &self.ranks {
                self.network.gpu.order(&stream, &self.network.gpu.side)?;
                self.add_ranks(nccl, network::CONVOLUTIONS, PARAMETERS + 2)?;
                self.network.gpu.order(&self.network.gpu.side, &stream)?;
            }
            self.graph = Some(self.network.gpu.capture(|| self.queue_step())?);
        }
        Ok(())
    }

    /// Queues a step: on the stream alone, or with the sums over the ranks beside it.
    fn queue_step(&self) -> Result<(), TrainError> {
        let (network, post) = (&self.network, &self.post);
        let data = self.data.as_ref().expect("a step follows begin");
        let Gpu { stream, side, .. } = &network.gpu;
        // SAFETY: the arguments are made for these kernels by `GpuNetwork`, whose buffers, as the data and
        // the posts, live as long as the graph: all are fields of one value.
        let queue = |launch: Launch<'_>| unsafe { launch.queue(stream) };
        network.forward(data, false).into_iter().try_for_each(queue)?;
        queue(network.dense_backward(data, post))?;
        match &self.ranks {
            Ranks::Alone => {
                queue(network.conv_backward(data))?;
                queue(network.adam(data, post, 1, false))?;
            }
            Ranks::Nccl { nccl, world_size, .. } => {
                network.gpu.order(stream, side)?;
                self.add_ranks(nccl, network::CONVOLUTIONS, PARAMETERS + 2)?;
                queue(network.conv_backward(data))?;
                queue(network.conv_gradient())?;
                network.gpu.order(stream, side)?;
                self.add_ranks(nccl, 0, network::CONVOLUTIONS)?;
                network.gpu.order(side, stream)?;
                queue(network.adam(data, post, *world_size, true))?;
            }
        }
        Ok(())
    }

    /// Queues the sum of a part of the gradient over all ranks, on the side stream.
    fn add_ranks(&self, nccl: &Nccl, from: usize, until: usize) -> Result<(), TrainError> {
        let address = self.network.gradient.address() + 4 * from as u64;
        // SAFETY: a part of the gradient, which lives as long as the stream's work.
        Ok(unsafe { nccl.all_reduce_sum(&self.network.gpu.side, address, until - from) }?)
    }

    /// Counts the batches that the device has posted since, and tells of them. True if it stopped.
    fn follow(&mut self, samples: usize, tell: Tell<'_>) -> Result<bool, TrainError> {
        let done = u64::from(self.post.posted[1].load(Ordering::Acquire));
        let at = &mut self.progress;
        while at.batch < done {
            // Both fit: a batch of the epoch.
            let index = at.batch as usize;
            let loss = f64::from(f32::from_bits(self.post.losses[index].load(Ordering::Relaxed)));
            let batch = at.batch_per_rank as usize;
            let size = batch.min(samples.saturating_sub(index * batch));
            at.step += 1;
            at.batch += 1;
            at.samples_seen += size as u64 * u64::from(at.world_size);
            at.epoch_loss += loss;
            self.snapshots.stepped(at);
            tell(Moment::After(at, loss))?;
        }
        if let Some(step) = self.snapshots.written()? {
            tell(Moment::Saved(step))?;
        }
        Ok(self.post.posted[0].load(Ordering::Acquire) != 0)
    }

    /// The forward pass over all of `digits`; `each` may look at what the network holds after a batch.
    fn forward(
        &self,
        digits: &Digits,
        mut each: impl FnMut(&GpuNetwork) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let (network, batch) = (&self.network, self.progress.batch_per_rank);
        let stream = &network.gpu.stream;
        let mut data = Data::upload(stream, digits)?;
        let everything: Vec<u32> = (0..).take(digits.len()).collect();
        data.set_order(stream, &everything)?;
        let samples = everything.len() as u32;
        for place in 0..samples.div_ceil(batch) {
            data.set_place(stream, place, samples, 0)?;
            for launch in network.forward(&data, true) {
                // SAFETY: the arguments are made for these kernels; all buffers outlive the wait below.
                unsafe { launch.queue(stream) }?;
            }
            each(network)?;
        }
        network.gpu.wait()
    }

    /// What the model says of each digit, before the softmax. The last layer is done on the CPU, in 32
    /// bits as the GPU has it: there nothing but the loss and its gradient leaves the kernel.
    pub fn logits(&self, digits: &Digits) -> Result<Vec<f32>, CudaError> {
        let mut hidden = Vec::new();
        self.forward(digits, |network| {
            let rows = network.hidden.read_floats(&network.gpu.stream)?;
            hidden.extend_from_slice(&rows[..self.progress.batch_per_rank as usize * HIDDEN]);
            Ok(())
        })?;
        let state = self.state()?;
        let [.., weight, bias] = views(&state.parameters);
        let mut logits = vec![0.0; digits.len() * CLASSES];
        linear_forward(digits.len(), &hidden[..digits.len() * HIDDEN], weight, bias, &mut logits);
        Ok(logits)
    }

    /// Signs of life to the watchdog, and its verdict.
    fn watch(&self, alive: &mut Instant, moved: bool) -> Result<(), TrainError> {
        if moved {
            *alive = Instant::now();
        }
        match &self.ranks {
            Ranks::Nccl { nccl, .. } => {
                if moved {
                    nccl.alive();
                }
                nccl.failure().map_or(Ok(()), |failure| Err(failure.into()))
            }
            Ranks::Alone if alive.elapsed() > self.timeout => Err(CudaError::Stalled(self.timeout).into()),
            Ranks::Alone => Ok(()),
        }
    }

    fn run(&mut self, stretch: &Stretch<'_>, tell: Tell<'_>) -> Result<bool, TrainError> {
        let mut queued = self.progress.batch;
        let mut alive = Instant::now();
        self.watch(&mut alive, true)?;
        loop {
            while queued < stretch.until && queued < self.progress.batch + AHEAD {
                let step = self.progress.step + 1 + queued - self.progress.batch;
                tell(Moment::Before(step))?;
                self.graph.as_ref().expect("a run follows begin").launch()?;
                queued += 1;
                if let Some(directory) = stretch.due(step, queued) {
                    self.snapshots.take(&self.network, step, directory)?;
                }
            }
            self.post.stop[0].store(stretch.stop.load(Ordering::Relaxed).into(), Ordering::Relaxed);
            let before = self.progress.batch;
            let stopped = self.follow(stretch.order.len(), tell)?;
            if stopped || self.progress.batch == stretch.until {
                return Ok(stopped);
            }
            let moved = self.progress.batch > before;
            self.watch(&mut alive, moved)?;
            if !moved {
                // Not done and nothing posted: a fault would be known by now.
                self.network.gpu.check()?;
                look_again();
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "losses appear in memory: nothing wakes who waits for one")]
fn look_again() {
    std::thread::sleep(LOOK);
}

impl Device for GpuTrainer {
    fn progress(&mut self) -> &mut Progress {
        &mut self.progress
    }

    fn sampler(&self, len: usize) -> Sampler {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        Sampler::new(len, self.ranks.world_size(), self.ranks.rank(), self.progress.seed)
    }

    fn advance(&mut self, stretch: &Stretch<'_>, tell: Tell<'_>) -> Result<bool, TrainError> {
        self.begin(stretch)?;
        let stopped = self.run(stretch, tell)?;
        // What is queued behind a stop still runs, and changes nothing.
        self.network.gpu.wait()?;
        if let Ranks::Nccl { nccl, .. } = &self.ranks {
            nccl.rest();
        }
        Ok(stopped)
    }

    fn checkpoint(&mut self, directory: &Path, _tell: Tell<'_>) -> Result<(), TrainError> {
        self.snapshots.take(&self.network, self.progress.step, directory)?;
        self.snapshots.stepped(&self.progress);
        Ok(())
    }

    fn settle(&mut self, tell: Tell<'_>) -> Result<(), TrainError> {
        let left_out = std::mem::take(&mut self.snapshots.left_out);
        if left_out > 0 {
            tracing::info!(left_out, "checkpoints that were due while another was being written");
        }
        self.snapshots.settle()?.map_or(Ok(()), |step| tell(Moment::Saved(step)))
    }

    fn correct(&mut self, digits: &Digits) -> Result<usize, TrainError> {
        let stream = self.network.gpu.stream.clone();
        self.network.correct.write(&stream, &[0; 4])?;
        self.forward(digits, |_| Ok(()))?;
        let correct = self.network.correct.read(&stream)?;
        Ok(correct.try_into().map_or(0, u32::from_le_bytes) as usize)
    }

    fn save(&mut self, directory: &Path) -> Result<PathBuf, TrainError> {
        Ok(self.state()?.save(directory, &self.progress)?)
    }

    fn resume(&mut self, directory: &Path) -> Result<Option<String>, TrainError> {
        let zeros = vec![0.0; PARAMETERS];
        let mut state = State { parameters: zeros.clone(), first: zeros.clone(), second: zeros };
        let note = state.resume(directory, &mut self.progress)?;
        self.set_state(&state)?;
        Ok(note)
    }
}

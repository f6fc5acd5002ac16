//! One rank's training on the CPU: parameters, optimiser, position, and a step on them.
//!
//! Every rank holds the same parameters and moves them by the same averaged gradient, so they stay
//! the same without being sent again.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::idx::Digits;
use super::model::{PARAMETERS, initial};
use super::network::{Network, PIXELS, grey};
use super::progress::Progress;
use super::run::{Device, Moment, Stretch, Tell, TrainError};
use super::state::State;
use crate::collective::{Collective, CollectiveError};
use crate::device::Precision;
use crate::device::cpu::{Adam, adam};
use crate::{Real, Sampler};

/// Behind the gradient travel the loss and the wish to stop, so that a step needs one reduction.
const LOSS: usize = PARAMETERS;
const STOP: usize = PARAMETERS + 1;

/// A rank's share of the training.
pub struct Trainer<T> {
    pub state: State<T>,
    pub progress: Progress,
    collective: Box<dyn Collective<T>>,
    /// The gradient, then [`LOSS`] and [`STOP`].
    reduced: Vec<T>,
    network: Network<T>,
    labels: Vec<u8>,
    grey: [T; 256],
}

/// What a step found out; the same on every rank.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Mean over the batches of all ranks, before the update.
    pub loss: f64,
    /// Some rank was asked to stop.
    pub stop: bool,
}

impl<T: Real> Trainer<T> {
    /// At the start of training.
    pub fn new(collective: Box<dyn Collective<T>>, batch: u32, seed: u64) -> Self {
        let zeros = |n: usize| vec![T::zero(); n];
        Self {
            state: State { parameters: initial(seed), first: zeros(PARAMETERS), second: zeros(PARAMETERS) },
            progress: Progress::start(seed, collective.world_size(), batch),
            collective,
            reduced: zeros(PARAMETERS + 2),
            network: Network::new(batch as usize),
            labels: Vec::with_capacity(batch as usize),
            grey: grey(),
        }
    }

    /// Averages the gradient of these samples with the other ranks', moves the parameters, and counts
    /// the step.
    pub fn step(&mut self, digits: &Digits, samples: &[u32], stop: bool) -> Result<Step, CollectiveError> {
        let step = self.gradient(digits, samples, stop)?;
        let progress = &mut self.progress;
        progress.step += 1;
        progress.batch += 1;
        progress.samples_seen += samples.len() as u64 * u64::from(progress.world_size);
        progress.epoch_loss += step.loss;
        let State { parameters, first, second } = &mut self.state;
        adam(Adam::default(), progress.step, parameters, &self.reduced[..PARAMETERS], first, second);
        Ok(step)
    }

    fn gradient(&mut self, digits: &Digits, samples: &[u32], stop: bool) -> Result<Step, CollectiveError> {
        self.load(digits, samples.iter().map(|&sample| sample as usize));
        let gradient = &mut self.reduced[..PARAMETERS];
        let loss = self.network.gradient(&self.state.parameters, &self.labels, gradient);
        self.reduced[LOSS] = loss;
        self.reduced[STOP] = if stop { T::one() } else { T::zero() };
        self.collective.all_reduce_sum(&mut self.reduced)?;
        let share = T::one() / T::of(f64::from(self.collective.world_size()));
        self.reduced.iter_mut().for_each(|x| *x *= share);
        Ok(Step { loss: self.reduced[LOSS].to_f64_exact(), stop: self.reduced[STOP] > T::zero() })
    }

    /// The averaged gradient of the latest step.
    pub fn averaged_gradient(&self) -> &[T] {
        &self.reduced[..PARAMETERS]
    }

    fn load(&mut self, digits: &Digits, samples: impl ExactSizeIterator<Item = usize>) {
        self.labels.clear();
        let rows = self.network.input(samples.len()).chunks_exact_mut(PIXELS);
        for (sample, row) in samples.zip(rows) {
            self.labels.push(digits.labels[sample]);
            let image = &digits.images[sample * PIXELS..][..PIXELS];
            row.iter_mut().zip(image).for_each(|(x, &level)| *x = self.grey[usize::from(level)]);
        }
    }
}

impl Trainer<f32> {
    /// Rounds the operands of products as a GPU does; see [`Network::rounding`].
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.network = match precision {
            Precision::Fp32 => self.network,
            Precision::Tf32 => self.network.rounding(|x| Precision::Tf32.round(x)),
            Precision::Bf16 => self.network.rounding(|x| Precision::Bf16.round(x)),
        };
        self
    }
}

impl<T: Real> Device for Trainer<T> {
    fn progress(&mut self) -> &mut Progress {
        &mut self.progress
    }

    fn sampler(&self, len: usize) -> Sampler {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        Sampler::new(len, self.collective.world_size(), self.collective.rank(), self.progress.seed)
    }

    fn advance(&mut self, stretch: &Stretch<'_>, tell: Tell<'_>) -> Result<bool, TrainError> {
        let batches = stretch.order.chunks(self.progress.batch_per_rank as usize);
        let index = |batch| usize::try_from(batch).unwrap_or(usize::MAX);
        for samples in batches.take(index(stretch.until)).skip(index(self.progress.batch)) {
            tell(Moment::Before(self.progress.step + 1))?;
            let step = self.step(stretch.digits, samples, stretch.stop.load(Ordering::Relaxed))?;
            tell(Moment::After(&self.progress, step.loss))?;
            if step.stop {
                return Ok(true);
            }
            if let Some(directory) = stretch.due(self.progress.step, self.progress.batch) {
                self.checkpoint(directory, tell)?;
            }
        }
        Ok(false)
    }

    fn correct(&mut self, digits: &Digits) -> Result<usize, TrainError> {
        let batch = self.progress.batch_per_rank as usize;
        let mut correct = 0;
        for start in (0..digits.len()).step_by(batch) {
            self.load(digits, start..digits.len().min(start + batch));
            correct += self.network.correct(&self.state.parameters, &self.labels);
        }
        Ok(correct)
    }

    fn save(&mut self, directory: &Path) -> Result<PathBuf, TrainError> {
        Ok(self.state.save(directory, &self.progress)?)
    }

    fn resume(&mut self, directory: &Path) -> Result<Option<String>, TrainError> {
        Ok(self.state.resume(directory, &mut self.progress)?)
    }
}

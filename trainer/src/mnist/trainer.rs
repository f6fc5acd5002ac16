//! One rank's training: parameters, optimiser, position, and a step on them.
//!
//! Every rank holds the same parameters and moves them by the same averaged gradient, so they stay
//! the same without being sent again.

use std::path::{Path, PathBuf};

use super::idx::Digits;
use super::model::{PARAMETERS, TENSORS, initial, views, views_mut};
use super::network::{Network, PIXELS};
use super::progress::Progress;
use crate::checkpoint::{CheckpointError, Draft, Named, read_file, read_tensors};
use crate::collective::{Collective, CollectiveError};
use crate::device::cpu::{Adam, adam};
use crate::{Real, Sampler};

/// Behind the gradient travel the loss and the wish to stop, so that a step needs one reduction.
const LOSS: usize = PARAMETERS;
const STOP: usize = PARAMETERS + 1;

/// A rank's share of the training.
pub struct Trainer<T> {
    pub parameters: Vec<T>,
    pub progress: Progress,
    collective: Box<dyn Collective<T>>,
    /// Exponential averages of the gradient and of its square.
    first: Vec<T>,
    second: Vec<T>,
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
        // MNIST's mean and standard deviation.
        let grey = std::array::from_fn(|level| T::of((level as f64 / 255.0 - 0.1307) / 0.3081));
        Self {
            parameters: initial(seed),
            progress: Progress::start(seed, collective.world_size(), batch),
            collective,
            first: zeros(PARAMETERS),
            second: zeros(PARAMETERS),
            reduced: zeros(PARAMETERS + 2),
            network: Network::new(batch as usize),
            labels: Vec::with_capacity(batch as usize),
            grey,
        }
    }

    /// The order in which this rank sees a data set of `len` samples.
    pub fn sampler(&self, len: usize) -> Sampler {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        Sampler::new(len, self.collective.world_size(), self.collective.rank(), self.progress.seed)
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
        let gradient = &self.reduced[..PARAMETERS];
        let moments = (&mut self.first[..], &mut self.second[..]);
        adam(Adam::default(), progress.step, &mut self.parameters, gradient, moments.0, moments.1);
        Ok(step)
    }

    fn gradient(&mut self, digits: &Digits, samples: &[u32], stop: bool) -> Result<Step, CollectiveError> {
        self.load(digits, samples.iter().map(|&sample| sample as usize));
        let gradient = &mut self.reduced[..PARAMETERS];
        let loss = self.network.gradient(&self.parameters, &self.labels, gradient);
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

    /// How many of these digits the model recognises.
    pub fn correct(&mut self, digits: &Digits) -> usize {
        let batch = self.progress.batch_per_rank as usize;
        let mut correct = 0;
        for start in (0..digits.len()).step_by(batch) {
            self.load(digits, start..digits.len().min(start + batch));
            correct += self.network.correct(&self.parameters, &self.labels);
        }
        correct
    }

    /// Writes `step-<n>/`: `model.safetensors` under PyTorch's names, `optimizer.safetensors`, and
    /// `state.json`.
    pub fn save(&self, directory: &Path) -> Result<PathBuf, CheckpointError> {
        let draft = Draft::begin(directory, self.progress.step)?;
        draft.tensors("model.safetensors", &named("", &self.parameters))?;
        let moments = [named("exp_avg.", &self.first), named("exp_avg_sq.", &self.second)].concat();
        draft.tensors("optimizer.safetensors", &moments)?;
        let state = serde_json::to_vec_pretty(&self.progress).expect("plain numbers always serialise");
        draft.file("state.json", &state)?;
        draft.commit()
    }

    /// Goes on from a directory that [`Trainer::save`] wrote. In another world the position is
    /// rescaled, and a sentence about it is returned.
    pub fn resume(&mut self, directory: &Path) -> Result<Option<String>, CheckpointError> {
        let path = directory.join("state.json");
        let mismatch = |reason| CheckpointError::Mismatch { path: path.clone(), reason };
        let state: Progress =
            serde_json::from_slice(&read_file(&path)?).map_err(|e| mismatch(e.to_string()))?;
        if state.version != Progress::VERSION || state.world_size == 0 || state.batch_per_rank == 0 {
            return Err(mismatch(format!("state of version {}, or of nobody", state.version)));
        }
        read_tensors(&directory.join("model.safetensors"), &mut named_mut("", &mut self.parameters))?;
        let mut moments = named_mut("exp_avg.", &mut self.first);
        moments.extend(named_mut("exp_avg_sq.", &mut self.second));
        read_tensors(&directory.join("optimizer.safetensors"), &mut moments)?;

        let (world_size, batch) = (self.progress.world_size, self.progress.batch_per_rank);
        let rescaled = state.rescaled(world_size, batch);
        let note = rescaled.as_ref().map(|now| {
            format!(
                "checkpoint of {} ranks x batch {} resumed on {world_size} ranks x batch {batch}: \
                 batch {} of epoch {} became batch {}",
                state.world_size,
                state.batch_per_rank,
                state.batch,
                state.epoch + 1,
                now.batch
            )
        });
        self.progress = rescaled.unwrap_or(state);
        Ok(note)
    }
}

fn named<'a, T>(prefix: &str, flat: &'a [T]) -> Vec<Named<'static, &'a [T]>> {
    let tensors = TENSORS.iter().zip(views(flat));
    tensors.map(|(t, values)| Named { name: format!("{prefix}{}", t.name), shape: t.shape, values }).collect()
}

fn named_mut<'a, T>(prefix: &str, flat: &'a mut [T]) -> Vec<Named<'static, &'a mut [T]>> {
    let tensors = TENSORS.iter().zip(views_mut(flat));
    tensors.map(|(t, values)| Named { name: format!("{prefix}{}", t.name), shape: t.shape, values }).collect()
}

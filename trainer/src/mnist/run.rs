//! The training loop: epochs, reports, checkpoints, and the wish to stop.
//!
//! Ends finished, or stopped: all ranks together, after a step that some rank was asked to stop in,
//! with a checkpoint of it.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::idx::{DataError, Digits};
use super::progress::Progress;
use crate::Sampler;
use crate::checkpoint::CheckpointError;
use crate::collective::CollectiveError;
use crate::device::cuda::CudaError;
use crate::metrics::Metrics;

/// What holds a rank's parameters and moves them: a CPU or a GPU.
pub trait Device {
    /// Where training stands; between calls of [`Device::advance`] it is exact.
    fn progress(&mut self) -> &mut Progress;

    /// The order in which this rank sees a data set of `len` samples.
    fn sampler(&self, len: usize) -> Sampler;

    /// Takes the steps of a stretch with the checkpoints on its way, and tells of each before it begins and, in order but perhaps
    /// later, after it is done. True if it ended early: after a step in which some rank was asked to
    /// stop.
    fn advance(&mut self, stretch: &Stretch<'_>, tell: Tell<'_>) -> Result<bool, TrainError>;

    /// How many of these digits the model recognises.
    fn correct(&mut self, digits: &Digits) -> Result<usize, TrainError>;

    /// Writes a checkpoint of where training stands into `directory`; perhaps behind the steps that
    /// follow, or not at all where another one still is.
    fn checkpoint(&mut self, directory: &Path, tell: Tell<'_>) -> Result<(), TrainError> {
        self.save(directory)?;
        tell(Moment::Saved(self.progress().step))
    }

    /// Waits until checkpoints that are written behind the steps are there.
    fn settle(&mut self, _tell: Tell<'_>) -> Result<(), TrainError> {
        Ok(())
    }

    /// Writes a checkpoint into `directory`, as [`super::state::State::save`] does.
    fn save(&mut self, directory: &Path) -> Result<PathBuf, TrainError>;

    /// Goes on from a checkpoint of any device, as [`super::state::State::resume`] does.
    fn resume(&mut self, directory: &Path) -> Result<Option<String>, TrainError>;
}

/// The next batches of an epoch.
pub struct Stretch<'a> {
    pub digits: &'a Digits,
    /// This rank's samples of the epoch.
    pub order: &'a [u32],
    /// Batches of the epoch that are done at its end.
    pub until: u64,
    /// Those before the stretch's end.
    pub checkpoints: Option<Checkpoints<'a>>,
    /// This rank is asked to stop.
    pub stop: &'a AtomicBool,
}

/// Where and when to save while training.
#[derive(Debug, Clone, Copy)]
pub struct Checkpoints<'a> {
    pub directory: &'a Path,
    /// Steps.
    pub every: u64,
}

impl<'a> Stretch<'a> {
    /// Where to save after `step`, the stretch's batch `batch`.
    pub fn due(&self, step: u64, batch: u64) -> Option<&'a Path> {
        let due = |c: &Checkpoints<'_>| step.is_multiple_of(c.every) && batch < self.until;
        self.checkpoints.filter(due).map(|c| c.directory)
    }
}

/// Hears what a device does.
pub type Tell<'a> = &'a mut dyn FnMut(Moment<'_>) -> Result<(), TrainError>;

/// What [`Device::advance`] tells.
#[derive(Debug)]
pub enum Moment<'a> {
    /// This step is about to begin.
    Before(u64),
    /// A step is done and counted; its loss is the mean over all ranks before the update.
    After(&'a Progress, f64),
    /// The checkpoint of this step is in place.
    Saved(u64),
}

/// What to do besides stepping.
pub struct Plan {
    pub epochs: u64,
    /// Steps between checkpoints; `None` is once per epoch.
    pub checkpoint_every: Option<u64>,
    /// `None` saves nothing.
    pub checkpoint_dir: Option<PathBuf>,
    /// Set from outside to stop after the step in progress.
    pub stop: Arc<AtomicBool>,
    /// Rank 0 reports and saves.
    pub rank: u32,
    /// When the process began, for the seconds to its first step.
    pub began: Instant,
}

/// How training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Finished,
    Stopped,
}

/// Why training failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Cuda(#[from] CudaError),
    #[error("cannot append to the metrics file; is there space?")]
    Metrics(#[source] io::Error),
    #[error("the loss is {loss} at step {step}: training diverged; start again with another --seed")]
    Diverged { step: u64, loss: f64 },
}

/// Trains from where `device` stands to the end of `plan`. `before_step` hears the number of each
/// step that is about to begin.
pub fn train(
    device: &mut dyn Device,
    digits: &Digits,
    plan: &Plan,
    metrics: &mut Metrics,
    mut before_step: impl FnMut(u64),
) -> Result<End, TrainError> {
    let sampler = device.sampler(digits.len());
    let per_epoch = sampler.batches(device.progress().batch_per_rank as usize) as u64;
    let mut report = Report::new(device.progress(), per_epoch, plan);
    let mut hear = |moment: Moment<'_>| match moment {
        Moment::Before(step) => {
            before_step(step);
            Ok(())
        }
        Moment::After(at, loss) if !loss.is_finite() => Err(TrainError::Diverged { step: at.step, loss }),
        Moment::After(at, loss) => report.step(at, loss, metrics),
        Moment::Saved(step) => {
            metrics.announce_checkpoint(step);
            Ok(())
        }
    };
    while device.progress().epoch < plan.epochs {
        let order = sampler.epoch(device.progress().epoch);
        let (until, checkpoints) = (per_epoch, plan.checkpoints());
        let stretch = Stretch { digits, order: &order, until, checkpoints, stop: &plan.stop };
        // A checkpoint of a larger data set may stand beyond this one's end.
        let steps = device.progress().batch < per_epoch;
        let stopped = steps && device.advance(&stretch, &mut hear)?;
        let epoch_ends = device.progress().batch >= per_epoch;
        if epoch_ends {
            turn_page(device.progress(), per_epoch, plan);
        }
        let last = epoch_ends && device.progress().epoch >= plan.epochs;
        if let Some(directory) = plan.directory().filter(|_| steps) {
            if last || stopped {
                device.settle(&mut hear)?;
                device.save(directory)?;
                hear(Moment::Saved(device.progress().step))?;
            } else if plan.due(device.progress(), epoch_ends) {
                device.checkpoint(directory, &mut hear)?;
            }
        }
        if stopped && !last {
            return Ok(End::Stopped);
        }
    }
    Ok(End::Finished)
}

impl Plan {
    /// Where this rank saves.
    fn directory(&self) -> Option<&Path> {
        self.checkpoint_dir.as_deref().filter(|_| self.rank == 0)
    }

    fn checkpoints(&self) -> Option<Checkpoints<'_>> {
        let (directory, every) = (self.directory()?, self.checkpoint_every?);
        Some(Checkpoints { directory, every })
    }

    fn due(&self, at: &Progress, epoch_ends: bool) -> bool {
        self.checkpoint_every.map_or(epoch_ends, |every| at.step.is_multiple_of(every))
    }
}

/// On to the next epoch.
fn turn_page(at: &mut Progress, per_epoch: u64, plan: &Plan) {
    let loss = at.epoch_loss / at.batch.min(per_epoch).max(1) as f64;
    (at.epoch, at.batch, at.epoch_loss) = (at.epoch + 1, 0, 0.0);
    if plan.rank == 0 {
        say(&format!("Epoch {}/{}, Loss: {loss:.4}", at.epoch, plan.epochs));
    }
}

/// What rank 0 says as it goes.
struct Report {
    total_steps: u64,
    quiet: bool,
    /// Until the first step.
    began: Option<Instant>,
    latest: Instant,
    samples: u64,
    /// Exponential average.
    seconds_per_sample: Option<f64>,
}

impl Report {
    fn new(at: &Progress, per_epoch: u64, plan: &Plan) -> Self {
        let left = (plan.epochs.saturating_sub(at.epoch) * per_epoch).saturating_sub(at.batch);
        Self {
            total_steps: at.step.saturating_add(left),
            quiet: plan.rank != 0,
            began: Some(plan.began),
            latest: Instant::now(),
            samples: at.samples_seen,
            seconds_per_sample: None,
        }
    }

    fn step(&mut self, at: &Progress, loss: f64, metrics: &mut Metrics) -> Result<(), TrainError> {
        if self.quiet {
            return Ok(());
        }
        let samples = at.samples_seen.saturating_sub(self.samples).max(1);
        let pace = self.latest.elapsed().as_secs_f64() / samples as f64;
        // Over about ten steps: a single one is at the mercy of the scheduler.
        let pace = self.seconds_per_sample.map_or(pace, |average| 0.9 * average + 0.1 * pace);
        (self.latest, self.samples, self.seconds_per_sample) = (Instant::now(), at.samples_seen, Some(pace));
        let mut values = vec![
            ("total_steps", self.total_steps as f64),
            ("epoch", (at.epoch + 1) as f64),
            ("loss", loss),
            ("samples_per_second", 1.0 / pace),
        ];
        if let Some(began) = self.began.take() {
            values.push(("seconds_to_first_step", began.elapsed().as_secs_f64()));
        }
        metrics.report(at.step, &values).map_err(TrainError::Metrics)
    }
}

/// One line on stdout. A reader that went away does not end the training.
pub fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Rank 0's last word: how much of the test set is recognised, in 0 to 1.
pub fn test(device: &mut dyn Device, digits: &Digits, metrics: &mut Metrics) -> Result<f64, TrainError> {
    let correct = device.correct(digits)?;
    let accuracy = correct as f64 / digits.len() as f64;
    say(&format!("Test accuracy: {accuracy:.4} ({correct} of {} digits)", digits.len()));
    let step = device.progress().step;
    if metrics.is_nowhere() {
        say(&format!("{{\"step\":{step},\"test_accuracy\":{accuracy}}}"));
    }
    metrics.report(step, &[("test_accuracy", accuracy)]).map_err(TrainError::Metrics)?;
    Ok(accuracy)
}

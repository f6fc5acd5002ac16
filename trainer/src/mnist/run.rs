//! The training loop: epochs, reports, checkpoints, and the wish to stop.
//!
//! Ends finished, or stopped: all ranks together, after a step that some rank was asked to stop in,
//! with a checkpoint of it.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::idx::{DataError, Digits};
use super::trainer::Trainer;
use crate::Real;
use crate::checkpoint::CheckpointError;
use crate::collective::CollectiveError;
use crate::metrics::Metrics;

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
    #[error("cannot append to the metrics file; is there space?")]
    Metrics(#[source] io::Error),
    #[error("the loss is {loss} at step {step}: training diverged; start again with another --seed")]
    Diverged { step: u64, loss: f64 },
}

/// Trains from where `trainer` stands to the end of `plan`. `before_step` hears the number of each
/// step that is about to begin.
pub fn train<T: Real>(
    trainer: &mut Trainer<T>,
    digits: &Digits,
    plan: &Plan,
    metrics: &mut Metrics,
    mut before_step: impl FnMut(u64),
) -> Result<End, TrainError> {
    let sampler = trainer.sampler(digits.len());
    let batch = trainer.progress.batch_per_rank as usize;
    let per_epoch = sampler.batches(batch) as u64;
    let mut report = Report::new(trainer, per_epoch, plan);
    while trainer.progress.epoch < plan.epochs {
        let order = sampler.epoch(trainer.progress.epoch);
        let begin = usize::try_from(trainer.progress.batch).unwrap_or(usize::MAX);
        for samples in order.chunks(batch).skip(begin) {
            before_step(trainer.progress.step + 1);
            let step = trainer.step(digits, samples, plan.stop.load(Ordering::Relaxed))?;
            let number = trainer.progress.step;
            if !step.loss.is_finite() {
                return Err(TrainError::Diverged { step: number, loss: step.loss });
            }
            report.step(trainer, step.loss, metrics)?;
            let epoch_ends = trainer.progress.batch >= per_epoch;
            if epoch_ends {
                report.epoch(trainer, plan);
            }
            let last = epoch_ends && trainer.progress.epoch >= plan.epochs;
            let due = plan.checkpoint_every.map_or(epoch_ends, |every| number.is_multiple_of(every));
            if due || last || step.stop {
                save(trainer, plan, metrics)?;
            }
            if step.stop && !last {
                return Ok(End::Stopped);
            }
        }
        // A checkpoint of a larger data set may stand beyond this one's end.
        if trainer.progress.batch > 0 {
            report.epoch(trainer, plan);
        }
    }
    Ok(End::Finished)
}

fn save<T: Real>(trainer: &Trainer<T>, plan: &Plan, metrics: &Metrics) -> Result<(), CheckpointError> {
    if plan.rank == 0
        && let Some(directory) = &plan.checkpoint_dir
    {
        trainer.save(directory)?;
        metrics.announce_checkpoint(trainer.progress.step);
    }
    Ok(())
}

/// What rank 0 says as it goes.
struct Report {
    per_epoch: u64,
    total_steps: u64,
    quiet: bool,
    latest: Instant,
    samples: u64,
    /// Exponential average.
    seconds_per_sample: Option<f64>,
}

impl Report {
    fn new<T: Real>(trainer: &Trainer<T>, per_epoch: u64, plan: &Plan) -> Self {
        let at = &trainer.progress;
        let left = (plan.epochs.saturating_sub(at.epoch) * per_epoch).saturating_sub(at.batch);
        Self {
            per_epoch,
            total_steps: at.step.saturating_add(left),
            quiet: plan.rank != 0,
            latest: Instant::now(),
            samples: at.samples_seen,
            seconds_per_sample: None,
        }
    }

    fn step<T: Real>(
        &mut self,
        trainer: &Trainer<T>,
        loss: f64,
        metrics: &mut Metrics,
    ) -> Result<(), TrainError> {
        if self.quiet {
            return Ok(());
        }
        let at = &trainer.progress;
        let samples = at.samples_seen.saturating_sub(self.samples).max(1);
        let pace = self.latest.elapsed().as_secs_f64() / samples as f64;
        // Over about ten steps: a single one is at the mercy of the scheduler.
        let pace = self.seconds_per_sample.map_or(pace, |average| 0.9 * average + 0.1 * pace);
        (self.latest, self.samples, self.seconds_per_sample) = (Instant::now(), at.samples_seen, Some(pace));
        let values = [
            ("total_steps", self.total_steps as f64),
            ("epoch", (at.epoch + 1) as f64),
            ("loss", loss),
            ("samples_per_second", 1.0 / pace),
        ];
        metrics.report(at.step, &values).map_err(TrainError::Metrics)
    }

    /// Turns the page.
    fn epoch<T: Real>(&mut self, trainer: &mut Trainer<T>, plan: &Plan) {
        let at = &mut trainer.progress;
        let loss = at.epoch_loss / at.batch.min(self.per_epoch).max(1) as f64;
        (at.epoch, at.batch, at.epoch_loss) = (at.epoch + 1, 0, 0.0);
        if !self.quiet {
            say(&format!("Epoch {}/{}, Loss: {loss:.4}", at.epoch, plan.epochs));
        }
    }
}

/// One line on stdout. A reader that went away does not end the training.
pub fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Rank 0's last word: how much of the test set is recognised, in 0 to 1.
pub fn test<T: Real>(
    trainer: &mut Trainer<T>,
    digits: &Digits,
    metrics: &mut Metrics,
) -> Result<f64, TrainError> {
    let correct = trainer.correct(digits);
    let accuracy = correct as f64 / digits.len() as f64;
    say(&format!("Test accuracy: {accuracy:.4} ({correct} of {} digits)", digits.len()));
    let step = trainer.progress.step;
    if metrics.is_nowhere() {
        say(&format!("{{\"step\":{step},\"test_accuracy\":{accuracy}}}"));
    }
    metrics.report(step, &[("test_accuracy", accuracy)]).map_err(TrainError::Metrics)?;
    Ok(accuracy)
}

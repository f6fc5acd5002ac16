//! What the demo measured, whether it held, and how that is told.

use std::time::Duration;

use convoke_proto::v1;
use serde::Serialize;

use crate::cli::checkpoint;
use crate::cli::failure::Failure;
use crate::cli::output::{self, paint};
use crate::cli::text;

/// What the guide's network reaches on the held-out digits, with some room below.
const ACCURACY: f64 = 0.97;

/// What the trainer said of itself.
#[derive(Default)]
pub(super) struct Measured {
    accuracy: Option<f64>,
    rates: Vec<f64>,
}

impl Measured {
    pub(super) fn add(&mut self, record: &v1::MetricRecord) {
        if let Some(accuracy) = record.values.get("test_accuracy") {
            self.accuracy = Some(*accuracy);
        }
        self.rates.extend(record.values.get("samples_per_second").filter(|rate| rate.is_finite()));
    }

    /// The median: a restart's first steps say nothing of the pace.
    fn rate(&self) -> Option<f64> {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied()
    }
}

/// The demo's last line for programs: its fields in this order.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    state: &'a str,
    nodes: usize,
    world_size: u32,
    generations: u64,
    test_accuracy: Option<f64>,
    checkpoints: Vec<CheckpointLine>,
    samples_per_second: Option<f64>,
    seconds: f64,
}

#[derive(Serialize)]
struct CheckpointLine {
    step: u64,
    state: &'static str,
    bytes: u64,
}

/// The demo's result.
pub(super) struct Summary {
    pub(super) job: v1::Job,
    pub(super) measured: Measured,
    pub(super) checkpoints: Vec<v1::Checkpoint>,
    pub(super) took: Duration,
    /// Generations that the job should have had.
    pub(super) generations: u64,
}

impl Summary {
    /// What did not hold; empty if all did.
    pub(super) fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.job.state() != v1::JobState::Succeeded {
            broken.push(format!("the job {}: {}", text::job_state(&self.job), self.job.reason));
        }
        match self.measured.accuracy {
            Some(accuracy) if accuracy >= ACCURACY => {}
            Some(accuracy) => broken.push(format!("the test accuracy is {accuracy}, below {ACCURACY}")),
            None => broken.push("no test accuracy was reported".to_owned()),
        }
        let complete = |c: &v1::Checkpoint| c.state() == v1::CheckpointState::Complete;
        if self.checkpoints.is_empty() || !self.checkpoints.iter().all(complete) {
            let count = self.checkpoints.iter().filter(|c| complete(c)).count();
            broken.push(format!("{count} of {} checkpoints are complete", self.checkpoints.len()));
        }
        if self.job.generation != self.generations {
            broken.push(format!("it took {} generations, not {}", self.job.generation, self.generations));
        }
        broken
    }

    /// The one line of `--output json`.
    pub(super) fn line(&self) -> Line<'_> {
        let checkpoint = |c: &v1::Checkpoint| CheckpointLine {
            step: c.reference.as_ref().map_or(0, |r| r.step),
            state: checkpoint::state(c),
            bytes: c.bytes,
        };
        Line {
            state: text::job_state(&self.job),
            nodes: self.job.replicas.len(),
            world_size: self.job.world_size,
            generations: self.job.generation,
            test_accuracy: self.measured.accuracy,
            checkpoints: self.checkpoints.iter().map(checkpoint).collect(),
            samples_per_second: self.measured.rate().map(f64::round),
            seconds: (self.took.as_secs_f64() * 10.0).round() / 10.0,
        }
    }

    pub(super) fn print(&self) -> Result<(), Failure> {
        let fact = |name: &str, value: &str| output::line(&format!("  {name:<12}{value}"));
        let state = paint(text::job_style(&self.job).bold(), text::job_state(&self.job));
        output::line("")?;
        output::line(&format!("{} {state}", paint(text::bold(), "The job")))?;
        for replica in &self.job.replicas {
            let devices = replica.devices.join(" ");
            fact(
                &replica.node,
                &format!("{} on {devices}", text::ranks(replica.first_rank, replica.local_world)),
            )?;
        }
        fact("generations", &self.generations_told())?;
        if let Some(accuracy) = self.measured.accuracy {
            fact("accuracy", &format!("{:.2} % of the held-out digits", accuracy * 100.0))?;
        }
        for checkpoint in &self.checkpoints {
            let step = checkpoint.reference.as_ref().map_or(0, |r| r.step);
            let (state, size) = (checkpoint::state(checkpoint), text::size(checkpoint.bytes));
            fact("checkpoint", &format!("step {step}, {size}, {state}"))?;
        }
        let rate = self.measured.rate().map(|r| format!(", {} samples a second", text::number(r)));
        fact("took", &format!("{}{}", text::short(self.took), rate.unwrap_or_default()))
    }

    fn generations_told(&self) -> String {
        let count = self.job.generation.to_string();
        match (&self.job.last_failure, &self.job.resumed_from) {
            (Some(failure), Some(from)) => {
                format!("{count}: {}; went on from the checkpoint at step {}", cause(failure), from.step)
            }
            (Some(failure), None) => format!("{count}: {}; started from the beginning", cause(failure)),
            (None, _) => format!("{count}: nothing failed"),
        }
    }
}

/// What happened, without what to do next: by now there is no cluster to ask.
fn cause(failure: &v1::Failure) -> &str {
    failure.message.split(';').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        let mut measured = Measured::default();
        for rate in [900.0, 10.0, 1000.0] {
            let values = [("samples_per_second".to_owned(), rate)].into();
            measured.add(&v1::MetricRecord { values, ..Default::default() });
        }
        let values = [("test_accuracy".to_owned(), 0.981)].into();
        measured.add(&v1::MetricRecord { values, ..Default::default() });
        let checkpoint = v1::Checkpoint {
            reference: Some(v1::CheckpointRef { step: 63, ..Default::default() }),
            state: v1::CheckpointState::Complete.into(),
            bytes: 7,
            ..Default::default()
        };
        Summary {
            job: v1::Job {
                state: v1::JobState::Succeeded.into(),
                generation: 1,
                world_size: 4,
                replicas: vec![v1::Replica::default(), v1::Replica::default()],
                ..Default::default()
            },
            measured,
            checkpoints: vec![checkpoint],
            took: Duration::from_millis(12_340),
            generations: 1,
        }
    }

    #[test]
    fn the_json_line_has_exactly_the_promised_fields() {
        let expected = concat!(
            r#"{"state":"succeeded","nodes":2,"world_size":4,"generations":1,"test_accuracy":0.981,"#,
            r#""checkpoints":[{"step":63,"state":"complete","bytes":7}],"#,
            r#""samples_per_second":900.0,"seconds":12.3}"#
        );
        assert_eq!(serde_json::to_string(&summary().line()).unwrap(), expected);
        assert!(summary().broken().is_empty());
    }

    #[test]
    fn each_promise_that_does_not_hold_is_named() {
        let mut bad = summary();
        bad.job.state = v1::JobState::Failed.into();
        bad.job.generation = 3;
        bad.measured.accuracy = Some(0.5);
        bad.checkpoints[0].state = v1::CheckpointState::Partial.into();
        assert_eq!(bad.broken().len(), 4, "{:?}", bad.broken());
        bad.checkpoints.clear();
        bad.measured.accuracy = None;
        assert_eq!(bad.broken().len(), 4);
    }
}

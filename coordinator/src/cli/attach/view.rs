//! Jobs on a screen: each line with its rank, a progress bar for each job, what happens told once.

use convoke_proto::v1;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json as object;

use super::{Prefix, Screen, Update, What, story};
use crate::cli::failure::Failure;
use crate::cli::inspect;
use crate::cli::json::json;
use crate::cli::link::Link;
use crate::cli::output::{self, paint};
use crate::cli::receive::{self, Back, Came};
use crate::cli::text;

pub(crate) struct View {
    screen: Screen,
    shown: Vec<Shown>,
}

struct Shown {
    job: v1::Job,
    prefix: Prefix,
    bar: Option<ProgressBar>,
    /// Rank whose metrics the bar shows: the lowest that reports.
    rank: Option<u32>,
    files: Back,
    /// The reason that was told last.
    reason: String,
}

impl View {
    pub(crate) fn new(screen: Screen, jobs: &[v1::Job]) -> Self {
        let several = jobs.len() > 1;
        let shown = |job: &v1::Job| Shown {
            job: job.clone(),
            prefix: if several { Prefix::named(text::job_name(job)) } else { Prefix::default() },
            bar: None,
            rank: None,
            files: Back::default(),
            reason: String::new(),
        };
        let mut view = Self { screen, shown: jobs.iter().map(shown).collect() };
        for index in 0..jobs.len() {
            view.tell(index, None);
        }
        view
    }

    /// The jobs as last heard of.
    pub(crate) fn jobs(&self) -> Vec<v1::Job> {
        self.shown.iter().map(|shown| shown.job.clone()).collect()
    }

    pub(crate) fn update(&mut self, update: Update) -> Result<(), Failure> {
        if self.screen.format.is_json() {
            self.record(&update)?;
        }
        match update.what {
            What::Job(job) => self.job(update.job, *job),
            What::Lines(_) if self.screen.format.is_json() => {}
            What::Lines(lines) => {
                let prefix = &self.shown[update.job].prefix;
                let lines: Vec<_> = lines.iter().map(|line| prefix.line(line)).collect();
                self.screen.lines(&lines)?;
            }
            What::Metrics(records) => {
                for record in &records {
                    self.metric(update.job, record);
                }
            }
            What::Files(files) => self.files(update.job, &files),
            What::FilesOver => {}
        }
        Ok(())
    }

    /// Looks at jobs that have ended, whose streams tell nothing more: true if their files have moved.
    pub(crate) async fn look_again(&mut self, link: &Link) -> Result<bool, Failure> {
        let mut moved = false;
        for index in 0..self.shown.len() {
            let before = &self.shown[index].job;
            if !text::is_final(before) {
                continue;
            }
            let job = inspect::get(link, &before.id).await?;
            let progress =
                |job: &v1::Job| -> Vec<_> { job.replicas.iter().map(|r| r.progress.clone()).collect() };
            moved |= progress(&job) != progress(before);
            self.job(index, job);
        }
        Ok(moved)
    }

    /// Whether every file of the jobs is here.
    pub(crate) fn files_outcome(&self) -> Result<(), Failure> {
        self.shown.iter().try_for_each(|shown| receive::on_nodes(&shown.job))?;
        self.shown.iter().try_for_each(|shown| shown.files.outcome(text::job_name(&shown.job)))
    }

    fn files(&mut self, job: usize, files: &[Came]) {
        let shown = &mut self.shown[job];
        let told = shown.files.add(files);
        if !self.screen.format.is_json() {
            let name = paint(text::bold(), text::job_name(&shown.job));
            told.iter().for_each(|sentence| self.screen.note(&format!("{name}: {sentence}")));
        }
    }

    /// One JSON object a line, named by its only key.
    fn record(&self, update: &Update) -> Result<(), Failure> {
        let name = text::job_name(&self.shown[update.job].job);
        match &update.what {
            What::Job(job) => output::record(&object!({ "job": json("Job", job.as_ref()) })),
            What::Lines(lines) => {
                lines.iter().try_for_each(|line| output::record(&object!({ "log": json("LogLine", line) })))
            }
            What::Metrics(records) => records
                .iter()
                .try_for_each(|record| output::record(&object!({ "metric": json("MetricRecord", record) }))),
            What::Files(files) => files
                .iter()
                .try_for_each(|file| output::record(&object!({ "file": receive::json(name, file) }))),
            What::FilesOver => Ok(()),
        }
    }

    /// Takes the bars away and tells how the jobs ended.
    pub(crate) fn finish(&mut self) {
        for shown in &mut self.shown {
            if let Some(bar) = shown.bar.take() {
                bar.finish_and_clear();
            }
        }
        for shown in self.shown.iter().filter(|s| text::is_final(&s.job) && !self.screen.format.is_json()) {
            let style = text::job_style(&shown.job).bold();
            let name = paint(text::bold(), text::job_name(&shown.job));
            self.screen.note(&format!("{name}: {}", paint(style, &story::end(&shown.job))));
        }
        for shown in &self.shown {
            if let Some(summary) = shown.files.summary() {
                self.screen.tell("files", &shown.files.json(), &summary);
            }
        }
    }

    fn job(&mut self, index: usize, job: v1::Job) {
        let before = std::mem::replace(&mut self.shown[index].job, job);
        self.tell(index, Some(&before));
        let shown = &mut self.shown[index];
        shown.prefix.widen(&shown.job);
        if let (Some(bar), v1::JobState::Starting) = (&shown.bar, shown.job.state()) {
            bar.set_message("starting");
        }
    }

    fn tell(&mut self, index: usize, before: Option<&v1::Job>) {
        if self.screen.format.is_json() {
            return;
        }
        let Shown { job, reason, .. } = &mut self.shown[index];
        let name = paint(text::bold(), text::job_name(job));
        for sentence in story::changes(before, job, reason) {
            self.screen.note(&format!("{name}: {sentence}"));
        }
    }

    fn metric(&mut self, index: usize, record: &v1::MetricRecord) {
        let shown = &mut self.shown[index];
        let rank = *shown.rank.get_or_insert(record.rank);
        if record.rank > rank || record.generation < shown.job.generation {
            return;
        }
        shown.rank = Some(record.rank);
        let name = text::job_name(&shown.job).to_owned();
        let bar = shown.bar.get_or_insert_with(|| self.screen.bar(new_bar(&name)));
        if let Some(total) = total_steps(record) {
            bar.set_length(total);
        }
        bar.set_position(record.step);
        let message = message(record);
        // A record without a loss (an evaluation's, say) leaves the last one standing.
        if !message.is_empty() {
            bar.set_message(message);
        }
    }
}

fn new_bar(name: &str) -> ProgressBar {
    let template = "{prefix} {bar:32} step {pos}/{len} {msg} {elapsed}";
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    ProgressBar::no_length().with_style(style).with_prefix(name.to_owned())
}

/// A whole, positive number of steps, where the trainer tells one.
fn total_steps(record: &v1::MetricRecord) -> Option<u64> {
    let total = *record.values.get("total_steps")?;
    // Casting saturates; the check keeps nonsense out.
    (total.is_finite() && total >= 1.0).then_some(total as u64)
}

fn message(record: &v1::MetricRecord) -> String {
    let value = |key: &str| record.values.get(key).map(|v| text::number(*v));
    let loss = value("loss").map(|v| format!("loss {v}"));
    let rate = value("samples_per_second").map(|v| format!("{v} samples/s"));
    loss.into_iter().chain(rate).collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(rank: u32, generation: u64, step: u64) -> v1::MetricRecord {
        let values = [("total_steps".to_owned(), 500.0), ("loss".to_owned(), 0.25)].into();
        v1::MetricRecord { rank, generation, step, values, ..Default::default() }
    }

    #[test]
    fn the_bar_shows_the_lowest_rank_of_the_current_generation() {
        let job = v1::Job { generation: 2, ..Default::default() };
        let screen = Screen::new(crate::cli::output::Format::Table);
        let mut view = View::new(screen, &[job]);
        let position = |view: &View| view.shown[0].bar.as_ref().map(ProgressBar::position);
        view.metric(0, &record(1, 2, 20));
        assert_eq!(position(&view), Some(20));
        view.metric(0, &record(0, 2, 19));
        view.metric(0, &record(1, 2, 30));
        view.metric(0, &record(0, 1, 400));
        assert_eq!(position(&view), Some(19));
        assert_eq!(message(&record(0, 2, 1)), "loss 0.2500");
    }
}

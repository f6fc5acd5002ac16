//! `convoke demo`: a whole cluster of real processes on this machine trains on real digits.
//!
//! The demo starts a coordinator and two agents, keeps them running as systemd would, submits the
//! example and follows it. Whatever ends the demo ends them: in order, or, when it is killed itself,
//! because they hold on to a lock that dies with it.

mod cluster;
mod example;
mod home;
mod processes;
mod services;
mod summary;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use convoke_compose::{LoadOptions, Project};
use convoke_proto::v1;
use rustix::process::{Signal, kill_process};
use tokio::time::Instant;

use super::Context;
use super::attach::{Attachment, Screen, Update, View, What};
use super::checkpoint;
use super::failure::{Failure, exit};
use super::link::Link;
use super::output;
use super::signals::Interrupts;
use home::Home;
use services::Services;
use summary::{Measured, Summary};

/// How long what was started may take to end by itself afterwards.
const GONE: Duration = Duration::from_secs(10);

/// Train on handwritten digits with a whole cluster on this machine
///
/// Starts a coordinator and two nodes with two CPU slots each as processes of this machine, trains a
/// small network with four ranks, and takes everything down again. With --output json the last line
/// sums it up. Exit code 0 means: the job succeeded, at least 97 % of the held-out digits are
/// recognised, every checkpoint is complete, and it took as many generations as it should have.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke demo
  convoke demo --kill-rank 2      # kill one rank in the middle and watch the recovery
  convoke demo --keep ./demo      # keep logs, ledger and checkpoints")]
pub(crate) struct Demo {
    /// Kill this rank's process after the first complete checkpoint
    #[arg(long, value_name = "RANK", value_parser = clap::value_parser!(u32).range(..4))]
    kill_rank: Option<u32>,

    /// Work in this new directory and leave it in place
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,

    /// Give up after this long
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl Demo {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut interrupts = Interrupts::listen()?;
        cluster::check_programs()?;
        let screen = Screen::new(context.format);
        let mut home = Home::make(self.keep.as_deref())?;
        let mut services = Services::new(&home, screen.clone());
        let result = tokio::select! {
            result = tokio::time::timeout(self.timeout, Box::pin(self.play(&home, &mut services, &screen))) => {
                result.unwrap_or_else(|_| Err(self.too_long()))
            }
            _ = interrupts.next() => Err(Failure::interrupted()),
        };
        screen.note("demo: taking everything down");
        services.stop().await;
        home.release();
        let left = processes::gone(home.path(), GONE).await;
        self.conclude(context, home, result, &left)
    }

    /// The demo itself, up to its summary.
    async fn play(&self, home: &Home, services: &mut Services, screen: &Screen) -> Result<Summary, Failure> {
        let began = Instant::now();
        let slots = cluster::SLOTS;
        screen.note(&format!(
            "demo: a coordinator and 2 nodes with {slots} CPU slots each on this machine, in {}",
            home.path().display()
        ));
        let (link, url) = cluster::coordinator(home, services, screen).await?;
        cluster::agents(home, services, &link, &url).await?;
        screen.note(&format!(
            "demo: the cluster is up; look around with --coordinator {url} (`convoke nodes`)"
        ));
        let job = Box::pin(submit(&link, &example::lay_out(home.path())?)).await?;
        let followed = Box::pin(self.follow(&link, screen, job));
        let (job, measured) = tokio::select! {
            followed = followed => followed?,
            failure = services.failed() => return Err(failure),
        };
        let checkpoints = checkpoint::list(&link, &job.id).await?.checkpoints;
        let generations = if self.kill_rank.is_some() { 2 } else { 1 };
        Ok(Summary { job, measured, checkpoints, took: began.elapsed(), generations })
    }

    async fn follow(
        &self,
        link: &Arc<Link>,
        screen: &Screen,
        job: v1::Job,
    ) -> Result<(v1::Job, Measured), Failure> {
        let jobs = [job];
        let mut updates = Attachment::new(link, &jobs, Vec::new());
        let mut view = View::new(screen.clone(), &jobs);
        let mut measured = Measured::default();
        let mut victim = self.kill_rank;
        while let Some(update) = updates.next().await? {
            if let What::Metrics(records) = &update.what {
                records.iter().for_each(|record| measured.add(record));
            }
            if let (Some(rank), Update { what: What::Job(job), .. }) = (victim, &update)
                && kill(screen, job, rank)
            {
                victim = None;
            }
            view.update(update)?;
        }
        view.finish();
        let [job] = jobs;
        Ok((view.jobs().pop().unwrap_or(job), measured))
    }

    fn conclude(
        &self,
        context: &Context,
        mut home: Home,
        result: Result<Summary, Failure>,
        left: &[rustix::process::Pid],
    ) -> Result<(), Failure> {
        let result = result.and_then(|summary| tell(context, &summary));
        let mut result = match (result, left) {
            (result, []) => result,
            (_, left) => Err(Failure::new(
                exit::FAILED,
                "LEFT_BEHIND",
                format!("processes of the demo could not be ended: {left:?}"),
            )),
        };
        let failed = result.as_ref().is_err_and(|failure| failure.exit != exit::INTERRUPTED);
        if failed {
            home.keep();
        }
        if let Err(failure) = &mut result
            && failed
            && failure.hint.is_none()
        {
            failure.hint = Some(format!("everything is kept in {}", home.path().display()));
        }
        if home.is_kept() && !context.format.is_json() {
            look_around(home.path());
        } else if result.is_ok() && !context.format.is_json() {
            output::note("\nTry next: convoke demo --kill-rank 2, or convoke demo --keep ./demo");
        }
        result
    }

    fn too_long(&self) -> Failure {
        let limit = humantime::format_duration(self.timeout);
        Failure::new(exit::TIMEOUT, "TIMEOUT", format!("the demo did not end within {limit}"))
    }
}

async fn submit(link: &Link, file: &Path) -> Result<v1::Job, Failure> {
    let options = LoadOptions {
        working_dir: file.parent().unwrap_or(Path::new("/")).to_owned(),
        files: vec![file.to_owned()],
        ..LoadOptions::default()
    };
    let project = Project::load(&options).map_err(|e| Failure::usage(e.to_string()))?;
    let spec = project.jobs.into_iter().next();
    let request = v1::SubmitJobRequest {
        idempotency_key: uuid::Uuid::new_v4().to_string(),
        spec: spec.map(Into::into),
        ..Default::default()
    };
    let answer = Box::pin(link.call(request, |mut c, r| async move { c.jobs.submit_job(r).await })).await?;
    answer.job.ok_or_else(|| Failure::new(exit::FAILED, "COORDINATOR", "the answer names no job"))
}

/// Kills the process of `rank`, once there is a checkpoint to go on from. True when that is done.
fn kill(screen: &Screen, job: &v1::Job, rank: u32) -> bool {
    let due = job.state() == v1::JobState::Running && job.generation == 1;
    let Some(checkpoint) = job.latest_checkpoint.as_ref().filter(|_| due) else { return false };
    let Some(pid) = processes::of_rank(&job.id, job.generation, rank) else { return false };
    if kill_process(pid, Signal::KILL).is_err() {
        return false;
    }
    let (pid, step) = (pid.as_raw_nonzero(), checkpoint.step);
    screen.note(&format!("demo: killed rank {rank} (process {pid}) after the checkpoint at step {step}"));
    true
}

fn tell(context: &Context, summary: &Summary) -> Result<(), Failure> {
    if context.format.is_json() {
        output::record(&summary.line())?;
    } else {
        summary.print()?;
    }
    match summary.broken().as_slice() {
        [] => Ok(()),
        broken => Err(Failure::new(exit::FAILED, "DEMO_FAILED", broken.join("; "))),
    }
}

fn look_around(dir: &Path) {
    let shown = dir.display();
    output::note(&format!(
        "\nKept in {shown}: logs/ (what each part said), coordinator/ (ledger, checkpoints), mnist/ (the example).\n\
         Look around: convoke serve --data-dir {shown}/coordinator, and then `convoke ps -a`, `convoke logs`, \
         `convoke checkpoint ls`"
    ));
}

//! `convoke inspect`: all that is known of one job.

use clap::Args;
use convoke_proto::v1;

use super::Context;
use super::cause::{self, Cause};
use super::failure::{Failure, exit};
use super::json::json;
use super::link::Link;
use super::names::Within;
use super::output::{self, Grid, paint};
use super::{ps, text};

/// Show one job in full
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke inspect train
  convoke inspect train -o json | jq .last_failure")]
pub(crate) struct Inspect {
    /// Id, name (the newest job of it), Compose service, or unique prefix
    #[arg(value_name = "JOB")]
    job: String,

    #[command(flatten)]
    within: Within,
}

impl Inspect {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let link = context.link().await?;
        let job = self.within.scope(context)?.find(&link, &self.job).await?;
        if context.format.is_json() {
            return output::document(&json("Job", &job));
        }
        facts(&job)?;
        placement(&job)
    }
}

/// One job by id, name, Compose service or unique prefix.
pub(crate) async fn get(link: &Link, job: &str) -> Result<v1::Job, Failure> {
    let request = v1::GetJobRequest { job: job.to_owned() };
    let response = link.call(request, |mut c, r| async move { c.jobs.get_job(r).await }).await?;
    response.job.ok_or_else(|| Failure::new(exit::FAILED, "COORDINATOR", "the answer names no job"))
}

fn facts(job: &v1::Job) -> Result<(), Failure> {
    let fact = |name: &str, value: &str| output::line(&format!("{name:<14}{value}"));
    let spec = job.spec.clone().unwrap_or_default();
    fact("Job", &format!("{} ({})", spec.name, job.id))?;
    fact("Project", &format!("{}, service {}", spec.project, spec.service))?;
    fact("State", &paint(text::job_style(job), text::job_state(job)))?;
    if !job.reason.is_empty() {
        fact("", &job.reason)?;
    }
    let argv: Vec<_> = spec.entrypoint.iter().flat_map(|e| &e.values).chain(&spec.command).cloned().collect();
    fact("Command", &argv.join(" "))?;
    fact("Image", spec.image.as_deref().unwrap_or("none: host processes"))?;
    fact("Submitted", &text::local_time(job.submitted_unix_ms))?;
    if let Some(started) = job.started_unix_ms {
        fact("Started", &text::local_time(started))?;
    }
    if let Some(finished) = job.finished_unix_ms {
        fact("Ended", &text::local_time(finished))?;
    }
    fact("Ran", &ps::ran(job))?;
    fact("Generation", &generation(job))?;
    fact("Restarts", &restarts(job, &spec))?;
    if let Some(c) = &job.latest_checkpoint {
        fact("Checkpoint", &format!("step {}, of generation {}", c.step, c.generation))?;
    }
    if let Some(failure) = &job.last_failure {
        let at = text::local_time(failure.at_unix_ms);
        fact("Last failure", &format!("{} (generation {}, {at})", failure.message, failure.generation))?;
        if let Some(cause) = Cause::of_job(job) {
            cause.lines().iter().try_for_each(|line| output::line(&format!("{:14}{line}", "")))?;
        }
    }
    Ok(())
}

fn generation(job: &v1::Job) -> String {
    match &job.resumed_from {
        Some(c) => format!("{}, from the checkpoint at step {}", job.generation, c.step),
        None => job.generation.to_string(),
    }
}

fn restarts(job: &v1::Job, spec: &v1::JobSpec) -> String {
    let of = |budget: Option<u32>| budget.map_or("no limit".to_owned(), |n| n.to_string());
    let budget = spec.restart.unwrap_or_default();
    format!(
        "{} of {} for infrastructure, {} of {} for the application's own failures",
        job.restarts_infrastructure,
        of(budget.infrastructure),
        job.restarts_application,
        of(budget.application)
    )
}

fn placement(job: &v1::Job) -> Result<(), Failure> {
    if job.replicas.is_empty() {
        return Ok(());
    }
    output::line("")?;
    replicas(&job.replicas)?;
    for replica in &job.replicas {
        for condition in &replica.conditions {
            output::line(&format!("{}: {}: {}", replica.node, condition.name, condition.message))?;
        }
    }
    cause::others(job).iter().try_for_each(|line| output::line(line))
}

/// Where each replica runs; `up --dry-run` prints the same.
pub(crate) fn replicas(replicas: &[v1::Replica]) -> Result<(), Failure> {
    let mut grid = Grid::new(&["NODE", "NODE RANK", "RANKS", "DEVICES", "TASKS"]);
    for replica in replicas {
        grid.row(vec![
            replica.node.clone(),
            replica.node_rank.to_string(),
            text::ranks(replica.first_rank, replica.local_world),
            replica.devices.join(" "),
            tasks(&replica.tasks),
        ]);
    }
    grid.print()
}

fn tasks(tasks: &[v1::Task]) -> String {
    let one = |task: &v1::Task| match (task.state(), &task.exit) {
        (_, Some(exit)) => text::exit(exit),
        (v1::TaskState::Running, None) => "running".to_owned(),
        (v1::TaskState::Exited, None) => "exited".to_owned(),
        (v1::TaskState::Waiting | v1::TaskState::Unspecified, None) => "waiting".to_owned(),
    };
    let words: Vec<_> = tasks.iter().map(one).collect();
    match words.split_first() {
        None => String::new(),
        Some((first, rest)) if rest.iter().all(|w| w == first) => first.clone(),
        Some(_) => words.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_in_the_same_state_are_said_once() {
        let running = v1::Task { state: v1::TaskState::Running.into(), ..Default::default() };
        let exit = v1::TaskExit { status: Some(v1::task_exit::Status::Code(3)), ..Default::default() };
        let exited = v1::Task { state: v1::TaskState::Exited.into(), exit: Some(exit), ..Default::default() };
        assert_eq!(tasks(&[running.clone(), running.clone()]), "running");
        assert_eq!(tasks(&[running, exited]), "running, exit code 3");
    }
}

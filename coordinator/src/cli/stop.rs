//! `convoke stop`: asks for a job's end and waits for it.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use convoke_proto::v1;

use super::Context;
use super::failure::{Failure, exit};
use super::follow::{Follow, JobChanges};
use super::json::json;
use super::link::Link;
use super::names::Within;
use super::{output, ps, text};

/// Beyond a job's grace: what agents need to end it for certain, and to say so.
const BEYOND_GRACE: Duration = Duration::from_secs(60);

/// When it is said what is waited for.
const LATE: Duration = Duration::from_secs(2);

/// Stop jobs
///
/// Their tasks get the stop signal, the grace, then SIGKILL. Returns when they have ended. What is
/// stored (checkpoints, logs, metrics) stays, and `convoke restart` goes on from there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke stop train
  convoke stop train --grace 2m
  convoke stop train --no-wait")]
pub(crate) struct Stop {
    /// Id, name, Compose service, or unique prefix
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<String>,

    /// From the stop signal to SIGKILL, instead of the job's own
    #[arg(long, value_name = "DURATION", value_parser = super::text::duration)]
    grace: Option<Duration>,

    /// Return once the coordinator has noted it
    #[arg(long)]
    no_wait: bool,

    #[command(flatten)]
    within: Within,
}

impl Stop {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let link = context.link().await?;
        let mut jobs = Vec::new();
        let scope = self.within.scope(context)?;
        for word in &self.jobs {
            let job = scope.find(&link, word).await?;
            jobs.push(ask(&link, &job.id, self.grace).await?);
        }
        if !self.no_wait {
            jobs = ended(&link, jobs, self.grace).await?;
        }
        print(context, jobs)
    }
}

/// Prints what was stopped.
pub(crate) fn print(context: &Context, jobs: Vec<v1::Job>) -> Result<(), Failure> {
    if context.format.is_json() {
        return output::document(&json("ListJobsResponse", &v1::ListJobsResponse { jobs }));
    }
    ps::table(&jobs)
}

/// Asks for one job's end.
pub(crate) async fn ask(link: &Link, job: &str, grace: Option<Duration>) -> Result<v1::Job, Failure> {
    let grace_ms = grace.map(|g| u64::try_from(g.as_millis()).unwrap_or(u64::MAX));
    let request = v1::StopJobRequest { job: job.to_owned(), grace_ms };
    let response = link.call(request, |mut c, r| async move { c.jobs.stop_job(r).await }).await?;
    response.job.ok_or_else(|| Failure::new(exit::FAILED, "COORDINATOR", "the answer names no job"))
}

/// Waits until each of `jobs` has ended.
pub(crate) async fn ended(
    link: &Arc<Link>,
    jobs: Vec<v1::Job>,
    grace: Option<Duration>,
) -> Result<Vec<v1::Job>, Failure> {
    let mut out = Vec::new();
    for job in jobs {
        let own = job.spec.as_ref().map(|spec| Duration::from_millis(spec.stop_grace_ms));
        let limit = grace.or(own).unwrap_or_default().saturating_add(BEYOND_GRACE);
        let ended = told_if_late(Box::pin(end_of(link, job.clone())), &job, grace.or(own));
        match tokio::time::timeout(limit, ended).await {
            Ok(job) => out.push(job?),
            Err(_) => return Err(not_ended(&job, limit)),
        }
    }
    Ok(out)
}

/// Says what is waited for where it takes long enough to wonder.
async fn told_if_late<T>(end: impl Future<Output = T>, job: &v1::Job, grace: Option<Duration>) -> T {
    let mut end = std::pin::pin!(end);
    match tokio::time::timeout(LATE, &mut end).await {
        Ok(ended) => ended,
        Err(_) => {
            let grace =
                grace.map(|grace| format!("; SIGKILL comes {} after the stop signal", text::short(grace)));
            output::note(&format!("waiting for {} to end{}", text::job_name(job), grace.unwrap_or_default()));
            end.await
        }
    }
}

/// The job when it has ended.
pub(crate) async fn end_of(link: &Arc<Link>, mut job: v1::Job) -> Result<v1::Job, Failure> {
    if text::is_final(&job) {
        return Ok(job);
    }
    let mut changes = Follow::new(link.clone(), JobChanges::of(&job.id));
    while let Some(batch) = changes.next().await? {
        job = batch.into_iter().next_back().unwrap_or(job);
    }
    Ok(job)
}

fn not_ended(job: &v1::Job, limit: Duration) -> Failure {
    let message = format!("job \"{}\" has not ended within {}", text::job_name(job), text::short(limit));
    Failure::new(exit::FAILED, "NOT_ENDED", message).hint(format!(
        "the order stands; `convoke inspect {}` shows what it waits for, `convoke nodes` whether its nodes are there",
        job.id
    ))
}

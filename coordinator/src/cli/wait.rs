//! `convoke wait`: until jobs have ended, and how they did.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use convoke_proto::v1;

use super::Context;
use super::cause::{self, Cause};
use super::failure::{Failure, exit};
use super::link::Link;
use super::names::{Scope, Within};
use super::{stop, text};

/// Wait until jobs have ended
///
/// Exits 0 if all succeeded; else with the exit code of the task that made the first of them fail.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke wait train && echo trained
  convoke wait train --timeout 2h")]
pub(crate) struct Wait {
    /// Id, name, Compose service, or unique prefix
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<String>,

    /// Give up after this long, with exit code 124
    #[arg(long, value_name = "DURATION", value_parser = super::text::duration)]
    timeout: Option<Duration>,

    #[command(flatten)]
    within: Within,
}

impl Wait {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let link = context.link().await?;
        let scope = self.within.scope(context)?;
        let all = all(&link, &scope, &self.jobs);
        let jobs = match self.timeout {
            None => all.await?,
            Some(limit) => match tokio::time::timeout(limit, all).await {
                Ok(jobs) => jobs?,
                Err(_) => return Err(timed_out(&self.jobs, limit)),
            },
        };
        let result = outcome(&jobs);
        stop::print(context, jobs)?;
        result
    }
}

async fn all(link: &Arc<Link>, scope: &Scope, names: &[String]) -> Result<Vec<v1::Job>, Failure> {
    let mut jobs = Vec::new();
    for name in names {
        let job = scope.find(link, name).await?;
        jobs.push(stop::end_of(link, job).await?);
    }
    Ok(jobs)
}

fn timed_out(jobs: &[String], limit: Duration) -> Failure {
    let message = format!("{} did not end within {}", jobs.join(", "), humantime::format_duration(limit));
    Failure::new(exit::TIMEOUT, "TIMEOUT", message).hint("nothing was stopped; `convoke ps` shows the jobs")
}

/// Success if all of `jobs` succeeded; else the first that did not, and after it every other one that failed.
pub(crate) fn outcome(jobs: &[v1::Job]) -> Result<(), Failure> {
    let mut bad: Vec<_> = jobs.iter().filter(|job| job.state() != v1::JobState::Succeeded).collect();
    bad.sort_by_key(|job| job.finished_unix_ms);
    let Some((first, rest)) = bad.split_first() else { return Ok(()) };
    let others = rest.iter().filter(|job| job.state() == v1::JobState::Failed).map(|job| failed(job));
    Err(Failure { others: others.collect(), ..failed(first) })
}

fn failed(job: &v1::Job) -> Failure {
    let failure = job.last_failure.as_ref().filter(|_| job.state() != v1::JobState::Stopped);
    let told = failure.map(|failure| cause::sentence(failure).unwrap_or_else(|| failure.message.clone()));
    let why = told.unwrap_or_else(|| job.reason.clone());
    let colon = if why.is_empty() { "" } else { ": " };
    let (code, reason) = match job.state() {
        v1::JobState::Stopped => (exit::FAILED, "JOB_STOPPED"),
        _ => (exit_code(failure), "JOB_FAILED"),
    };
    let message = format!("job \"{}\" {}{colon}{why}", text::job_name(job), text::job_state(job));
    // A job whose tasks never ran has printed nothing.
    let logs = if job.started_unix_ms.is_some() {
        format!("`convoke logs {} --tail 20` and ", job.id)
    } else {
        String::new()
    };
    let hint = format!("see {logs}`convoke inspect {}`", job.id);
    let cause = failure.and_then(|_| Cause::of_job(job)).map(Box::new);
    Failure { cause, ..Failure::new(code, reason, message).hint(hint) }
}

/// What a shell would say of the task that failed first.
fn exit_code(failure: Option<&v1::Failure>) -> u8 {
    use v1::task_exit::Status;
    let status = failure.and_then(|f| f.exit.as_ref()).and_then(|e| e.status.as_ref());
    let code = match status {
        Some(Status::Code(code)) => *code,
        Some(Status::Signal(signal)) => signal.saturating_add(128),
        Some(Status::Unknown(_)) | None => 0,
    };
    u8::try_from(code).ok().filter(|code| *code != 0).unwrap_or(exit::FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::task_exit::Status;

    fn job(state: v1::JobState, status: Option<Status>) -> v1::Job {
        let exit = status.map(|s| v1::TaskExit { status: Some(s), ..Default::default() });
        let last_failure = Some(v1::Failure { exit, ..Default::default() });
        v1::Job { state: state.into(), last_failure, ..Default::default() }
    }

    #[test]
    fn the_exit_code_is_that_of_the_task_that_failed() {
        let code = |status| outcome(&[job(v1::JobState::Failed, status)]).unwrap_err().exit;
        assert_eq!(code(Some(Status::Code(3))), 3);
        assert_eq!(code(Some(Status::Signal(9))), 137);
        assert_eq!(code(Some(Status::Unknown(true))), 1);
        assert_eq!(code(None), 1);
        assert_eq!(code(Some(Status::Code(0))), 1);
        assert_eq!(code(Some(Status::Code(-1))), 1);
    }

    #[test]
    fn every_job_that_failed_is_told_the_first_one_first() {
        let at = |finished, status| v1::Job {
            finished_unix_ms: Some(finished),
            ..job(v1::JobState::Failed, Some(Status::Code(status)))
        };
        let failure = outcome(&[at(9, 2), job(v1::JobState::Succeeded, None), at(5, 3)]).unwrap_err();
        assert_eq!((failure.exit, failure.others.len(), failure.others[0].exit), (3, 1, 2));
    }

    #[test]
    fn a_job_that_recovered_from_a_failure_succeeded() {
        assert_eq!(outcome(&[job(v1::JobState::Succeeded, Some(Status::Signal(9)))]), Ok(()));
    }
}

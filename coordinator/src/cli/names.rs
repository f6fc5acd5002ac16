//! Which job a person means by a word: first one of the project that they are in, and what runs before what has ended.

use std::path::PathBuf;

use clap::Args;
use convoke_proto::v1;

use super::args::Compose;
use super::failure::{Failure, exit};
use super::link::Link;
use super::project::{self, Selection};
use super::{Context, inspect, text};

/// The project whose jobs are meant.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Within {
    /// Project of the job [default: that of the Compose file here, then any]
    #[arg(short, long, value_name = "PROJECT", help_heading = "Compose options")]
    project_name: Option<String>,

    /// Compose file of the job (-f before the command's name)
    #[arg(long, value_name = "FILE", help_heading = "Compose options")]
    file: Vec<PathBuf>,
}

/// Where a word is looked up first.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    project: Option<String>,
    /// The user named it: nowhere else is looked.
    only: bool,
}

impl Within {
    pub(crate) fn scope(&self, context: &Context) -> Result<Scope, Failure> {
        let inner = Compose {
            file: self.file.clone(),
            project_name: self.project_name.clone(),
            ..Compose::default()
        };
        let compose = context.compose.clone().with(inner.clone());
        if compose.project_name.is_some() {
            return Ok(Scope { project: compose.project_name, only: true });
        }
        let only = !compose.file.is_empty() || compose.project_directory.is_some();
        match project::load(context, inner, Selection::default()) {
            Ok(project) => Ok(Scope { project: Some(project.name), only }),
            Err(failure) if only => Err(failure),
            // A directory without a Compose file, or with a broken one, is no project.
            Err(_) => Ok(Scope::default()),
        }
    }
}

impl Scope {
    /// The job that `word` names.
    pub(crate) async fn find(&self, link: &Link, word: &str) -> Result<v1::Job, Failure> {
        let Some(project) = &self.project else { return inspect::get(link, word).await };
        let jobs = of_project(link, project).await?;
        match pick(&jobs, word) {
            Some(job) => Ok(job.clone()),
            None if self.only => Err(not_there(project, word, &jobs)),
            None => inspect::get(link, word).await,
        }
    }

    /// The same, of a job that has not ended.
    pub(crate) async fn find_running(&self, link: &Link, word: &str) -> Result<v1::Job, Failure> {
        let job = self.find(link, word).await?;
        if text::is_final(&job) {
            let message = format!("job \"{}\" does not run: it {}", text::job_name(&job), ended(&job));
            return Err(Failure::new(exit::REFUSED, "NOT_RUNNING", message).hint(format!(
                "`convoke ps` lists what runs; `convoke restart {}` starts it again",
                job.id
            )));
        }
        Ok(job)
    }

    /// The newest job of each service of the project, in the order of their submission.
    pub(crate) async fn all(&self, link: &Link) -> Result<Vec<v1::Job>, Failure> {
        let Some(project) = &self.project else {
            return Err(Failure::usage("no job is named, and there is no Compose file here")
                .hint("name a job (`convoke ps -a` lists them), or a project with -p"));
        };
        let mut newest: Vec<v1::Job> = Vec::new();
        for job in of_project(link, project).await? {
            if newest.iter().all(|other| text::job_name(other) != text::job_name(&job)) {
                newest.push(job);
            }
        }
        if newest.is_empty() {
            let message = format!("project \"{project}\" has no jobs");
            return Err(
                Failure::new(exit::REFUSED, "NO_JOBS", message).hint("`convoke up` submits its services")
            );
        }
        newest.reverse();
        Ok(newest)
    }
}

/// A project's jobs, newest first.
pub(super) async fn of_project(link: &Link, project: &str) -> Result<Vec<v1::Job>, Failure> {
    let request = v1::ListJobsRequest { all: true, project: project.to_owned() };
    Ok(link.call(request, |mut c, r| async move { c.jobs.list_jobs(r).await }).await?.jobs)
}

/// By id, name or service; of several the one that has not ended, and then the newest.
fn pick<'a>(jobs: &'a [v1::Job], word: &str) -> Option<&'a v1::Job> {
    let is_meant = |job: &&v1::Job| {
        let service = job.spec.as_ref().map(|spec| spec.service.as_str());
        job.id == word || text::job_name(job) == word || service == Some(word)
    };
    let mut meant = jobs.iter().filter(is_meant);
    meant.clone().find(|job| !text::is_final(job)).or_else(|| meant.next())
}

fn not_there(project: &str, word: &str, jobs: &[v1::Job]) -> Failure {
    let mut services: Vec<_> =
        jobs.iter().filter_map(|job| Some(job.spec.as_ref()?.service.as_str())).collect();
    services.sort_unstable();
    services.dedup();
    let has = if services.is_empty() { "no jobs".to_owned() } else { services.join(", ") };
    let message = format!("project \"{project}\" has no job or service \"{word}\"; it has {has}");
    Failure::new(exit::REFUSED, "UNKNOWN_JOB", message).hint("`convoke ps -a` lists all jobs")
}

fn ended(job: &v1::Job) -> String {
    let ago = job.finished_unix_ms.map(|at| format!(" {} ago", text::age(at))).unwrap_or_default();
    let how = match job.state() {
        v1::JobState::Stopped => "was stopped",
        _ => text::job_state(job),
    };
    format!("{how}{ago}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, name: &str, service: &str, state: v1::JobState) -> v1::Job {
        let spec = v1::JobSpec { name: name.into(), service: service.into(), ..Default::default() };
        v1::Job { id: id.into(), spec: Some(spec), state: state.into(), ..Default::default() }
    }

    #[test]
    fn what_runs_goes_before_what_has_ended_and_then_the_newest() {
        let jobs = [
            job("3", "b", "train", v1::JobState::Failed),
            job("2", "p-train", "train", v1::JobState::Running),
            job("1", "p-train", "train", v1::JobState::Succeeded),
        ];
        let picked = |word| pick(&jobs, word).map(|job| job.id.as_str());
        assert_eq!(picked("train"), Some("2"));
        assert_eq!(picked("b"), Some("3"));
        assert_eq!(picked("1"), Some("1"));
        assert_eq!(picked("tr"), None, "a prefix is looked up among all jobs");
        assert_eq!(pick(&jobs[2..], "train").map(|job| job.id.as_str()), Some("1"));
    }

    #[test]
    fn a_service_that_a_project_lacks_is_told_with_those_it_has() {
        let failure = not_there("p", "tarin", &[job("1", "p-train", "train", v1::JobState::Running)]);
        assert!(failure.message.contains("it has train"), "{}", failure.message);
    }
}

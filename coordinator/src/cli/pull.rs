//! `convoke pull`: what a job wrote, fetched.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use convoke_model::JobSpec;
use convoke_proto::v1;
use serde_json::json as object;

use super::attach::Screen;
use super::failure::{Failure, exit};
use super::follow::Follow;
use super::link::Link;
use super::names::{Within, of_project};
use super::output;
use super::receive::{self, Artifacts, Back, Places, Receiver};
use super::ship::Sent;
use super::{Context, inspect, text};

/// Fetch the files that a job wrote into its mounted directories
///
/// Into the directories that the job was submitted with, or below DIR. What is here already is not
/// fetched again; a file that you changed since the submit stays, and what came lies beside it as
/// NAME.from-JOB. What lies on a file system that the nodes share is there without it. An attached
/// `convoke up` does this by itself.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke pull train
  convoke pull train ./results
  convoke pull train --follow        # also what is still to come, until the job has ended
  convoke pull train -o json | jq -r 'select(.file) | .file.path'")]
pub(crate) struct Pull {
    /// Id, name (the newest job of it), Compose service, or unique prefix
    #[arg(value_name = "JOB")]
    job: String,

    /// Where to put it, a directory for each mount below [default: where it was submitted from]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,

    /// Stay until the job has ended and its last files are here
    #[arg(long, short)]
    follow: bool,

    #[command(flatten)]
    within: Within,
}

impl Pull {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let screen = Screen::new(context.format);
        let teller = screen.clone();
        let say = Box::new(move |text: &str| teller.note(&format!("convoke: {text}")));
        let link = context.link_saying(say).await?;
        let job = self.within.scope(context)?.find(&link, &self.job).await?;
        let name = text::job_name(&job).to_owned();
        let places = self.places(&job)?;
        let in_place: Vec<_> = places.in_place().collect();
        in_place.iter().for_each(|sentence| screen.note(sentence));
        if places.is_empty() {
            if in_place.is_empty() {
                screen.note(&format!("{name} mounts no directory of a relative path that it may write to"));
            }
            return Ok(());
        }
        let sent = self.sent(&link, &job).await?;
        let earlier = earlier(&link, &job).await?;
        let receiver = Receiver::new(&link, &screen, &job, (places, sent), &earlier);
        let back = self.bring(&link, &screen, &job, receiver).await?;
        if context.format.is_json() {
            output::record(&object!({ "pulled": back.json() }))?;
        } else {
            output::line(&summary(&name, &back))?;
        }
        back.outcome(&name)?;
        receive::on_nodes(&inspect::get(&link, &job.id).await?)
    }

    fn places(&self, job: &v1::Job) -> Result<Places, Failure> {
        let spec = spec(job)?;
        // What was written where is remembered by absolute paths.
        let dir = self.dir.as_ref().map(std::path::absolute).transpose()?;
        let places = Places::of(&spec, dir.as_deref())?;
        if self.dir.is_none() && !places.is_empty() && !Path::new(&spec.project_dir).is_dir() {
            let message = format!(
                "{} is not on this machine, and {} was submitted from there",
                spec.project_dir, spec.name
            );
            return Err(Failure::new(exit::USAGE, "NO_PROJECT_DIR", message)
                .hint(format!("name a directory: convoke pull {} DIR", self.job)));
        }
        Ok(places)
    }

    /// What may be replaced: of interest only where something may lie already.
    async fn sent(&self, link: &Link, job: &v1::Job) -> Result<Sent, Failure> {
        match &self.dir {
            Some(dir) if !dir.exists() => Ok(Sent::new()),
            _ => Ok(receive::sent(link, &spec(job)?).await),
        }
    }

    async fn bring(
        &self,
        link: &Arc<Link>,
        screen: &Screen,
        job: &v1::Job,
        mut receiver: Receiver,
    ) -> Result<Back, Failure> {
        let name = text::job_name(job);
        let mut back = Back::default();
        let mut artifacts = Follow::new(link.clone(), Artifacts::of(&job.id, self.follow));
        while let Some(batch) = artifacts.next().await? {
            let files = receiver.take(batch).await?;
            let told = back.add(&files);
            if screen.format.is_json() {
                files
                    .iter()
                    .try_for_each(|file| output::record(&object!({ "file": receive::json(name, file) })))?;
            } else {
                told.iter().for_each(|sentence| screen.note(sentence));
            }
        }
        Ok(back)
    }
}

/// A job's spec as it was submitted.
fn spec(job: &v1::Job) -> Result<JobSpec, Failure> {
    let broken =
        |problem: String| Failure::new(exit::FAILED, "COORDINATOR", format!("the job's spec: {problem}"));
    let spec = job.spec.clone().ok_or_else(|| broken("it is missing".to_owned()))?;
    spec.try_into().map_err(|e: convoke_proto::InvalidMessage| broken(e.to_string()))
}

fn summary(job: &str, back: &Back) -> String {
    let unchanged = match back.unchanged() {
        0 => String::new(),
        n => format!("; {} here already", text::grouped(n as u64)),
    };
    match back.summary() {
        Some(summary) => format!("{summary}{unchanged}"),
        None => format!("nothing new came back from {job}{unchanged}"),
    }
}

/// The jobs of its project that were submitted before it.
async fn earlier(link: &Link, job: &v1::Job) -> Result<Vec<String>, Failure> {
    let project = job.spec.as_ref().map(|spec| spec.project.as_str()).unwrap_or_default();
    let jobs = of_project(link, project).await?.into_iter().map(|job| job.id);
    Ok(jobs.skip_while(|id| *id != job.id).skip(1).collect())
}

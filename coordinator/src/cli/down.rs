//! `convoke down`: stops all jobs of a project.

use std::time::Duration;

use clap::Args;
use convoke_proto::v1;

use super::Context;
use super::args::Compose;
use super::failure::Failure;
use super::project::{self, Selection};
use super::{output, stop};

/// Stop all jobs of the Compose project
///
/// The project is that of ./compose.yaml (or -f), or the one named with -p: then no file is
/// needed. What is stored stays.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke down
  convoke down -p mnist --grace 10s")]
pub(crate) struct Down {
    #[command(flatten)]
    compose: Compose,

    /// From the stop signal to SIGKILL, instead of each job's own
    #[arg(long, value_name = "DURATION", value_parser = super::text::duration)]
    grace: Option<Duration>,

    #[arg(short, long, hide = true)]
    volumes: bool,

    /// Compose's word for what happens anyway: every job of the project is stopped.
    #[arg(long, hide = true)]
    remove_orphans: bool,
}

impl Down {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        if self.volumes {
            return Err(Failure::usage("-v: named volumes are the nodes' own, and stay there")
                .hint("leave -v out; `docker volume rm` on a node removes one for good"));
        }
        let named = self.compose.project_name.clone().or_else(|| context.compose.project_name.clone());
        let project = match named {
            Some(name) => name,
            None => project::load(context, self.compose, Selection::default())?.name,
        };
        let link = context.link().await?;
        let request = v1::ListJobsRequest { all: false, project: project.clone() };
        let list = link.call(request, |mut c, r| async move { c.jobs.list_jobs(r).await }).await?;
        if list.jobs.is_empty() {
            output::note(&format!("project \"{project}\" has no running jobs"));
            if !context.format.is_json() {
                return Ok(());
            }
        }
        let mut jobs = Vec::new();
        for job in &list.jobs {
            jobs.push(stop::ask(&link, &job.id, self.grace).await?);
        }
        let jobs = stop::ended(&link, jobs, self.grace).await?;
        stop::print(context, jobs)
    }
}

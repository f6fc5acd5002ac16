//! `convoke ps`: the jobs.

use clap::Args;
use convoke_proto::v1;

use super::Context;
use super::failure::Failure;
use super::json::json;
use super::output::{self, Grid, paint};
use super::text;

/// List jobs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke ps
  convoke ps -a
  convoke ps -p mnist -o json | jq -r '.jobs[].id'")]
pub(crate) struct Ps {
    /// Also jobs that have ended
    #[arg(short, long)]
    all: bool,

    /// Only their ids
    #[arg(short, long)]
    quiet: bool,

    /// Only jobs of this Compose project
    #[arg(short, long, value_name = "PROJECT")]
    project_name: Option<String>,
}

impl Ps {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let project = self.project_name.or_else(|| context.compose.project_name.clone());
        let request = v1::ListJobsRequest { all: self.all, project: project.unwrap_or_default() };
        let link = context.link().await?;
        let response = link.call(request, |mut c, r| async move { c.jobs.list_jobs(r).await }).await?;
        if context.format.is_json() {
            return output::document(&json("ListJobsResponse", &response));
        }
        if self.quiet {
            return response.jobs.iter().try_for_each(|job| output::line(&job.id));
        }
        if response.jobs.is_empty() {
            let more = if self.all { "" } else { " (`convoke ps -a` shows those that have ended)" };
            output::note(&format!("no jobs{more}"));
            return Ok(());
        }
        table(&response.jobs)
    }
}

/// Jobs as a table; `stop`, `restart` and `up -d` print the same.
pub(crate) fn table(jobs: &[v1::Job]) -> Result<(), Failure> {
    let mut grid = Grid::new(&["NAME", "ID", "STATE", "NODES", "RANKS", "GEN", "AGE", "RAN", "REASON"]);
    for job in jobs {
        grid.row(vec![
            text::job_name(job).to_owned(),
            job.id.clone(),
            paint(text::job_style(job), text::job_state(job)),
            nodes(job),
            if job.world_size == 0 { "-".to_owned() } else { job.world_size.to_string() },
            job.generation.to_string(),
            text::age(job.submitted_unix_ms),
            ran(job),
            reason(job),
        ]);
    }
    grid.print()
}

/// Why it waits or how it ended; where it is paused; of one that ended well, where files of it still are.
fn reason(job: &v1::Job) -> String {
    let still = text::still_on_nodes(job);
    match (job.reason.lines().next(), still.first()) {
        (Some(reason), _) => reason.to_owned(),
        (None, Some((node, _))) if text::is_final(job) => {
            format!("files are still on node {node}, see `convoke inspect {}`", text::job_name(job))
        }
        (None, _) => text::paused_on(job).map_or(String::new(), |node| {
            format!("paused on node {node}, see `convoke inspect {}`", text::job_name(job))
        }),
    }
}

/// Nodes it has, or wants.
fn nodes(job: &v1::Job) -> String {
    let wanted = job.spec.as_ref().map_or(0, |spec| spec.replicas);
    if job.replicas.is_empty() { format!("0/{wanted}") } else { job.replicas.len().to_string() }
}

/// How long it has run, or ran.
pub(crate) fn ran(job: &v1::Job) -> String {
    let Some(started) = job.started_unix_ms else { return "-".to_owned() };
    let end = job.finished_unix_ms.unwrap_or_else(text::now_ms);
    text::short(std::time::Duration::from_millis(end.saturating_sub(started)))
}

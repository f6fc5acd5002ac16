//! `convoke up`: submits the project's services as jobs and follows them.

use clap::Args;
use convoke_model::JobSpec;
use serde_json::json as object;

use super::args::Compose;
use super::failure::{Failure, exit};
use super::json::json;
use super::order::{beside, in_order};
use super::project::{self, Selection};
use super::ship::Shipping;
use super::submit::{Session, Submit, planned, refused};
use super::{Context, inspect, output, ship, signals, text};

/// Submit the services of a Compose file as jobs and follow them
///
/// Shows what every rank prints until the jobs have ended. Ctrl-C stops the jobs; a second Ctrl-C
/// leaves at once. When the terminal goes away, the jobs go on.
///
/// What containers mount from here by a relative path travels: it is sent to the nodes, as far as they
/// lack it, and what the job writes into it comes back here. A .convokeignore (written as a .gitignore)
/// leaves out what the job does not need. A directory on a network file system that the nodes see at the
/// same path is mounted instead (--files), and a small file, .convoke-shared, stays in it as the proof.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke up
  convoke up -d --nodes 4
  convoke up train --replace          # stop the running one, go on from its checkpoint
  convoke up --dry-run                # where would it run, and what would travel?
  convoke up --build --pull           # newer images first
  convoke up -f compose.yaml -f compose.gpu.yaml --env-file lr.env")]
pub(crate) struct Up {
    /// Only these services, and those they depend on [default: all]
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    #[command(flatten)]
    compose: Compose,

    /// Number of nodes, instead of deploy.replicas
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,

    /// Name of the job (of one service)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Show the placement the jobs would get now, or why none; submit nothing
    #[arg(long, conflicts_with_all = ["detach", "replace"])]
    dry_run: bool,

    #[arg(long, hide = true)]
    remove_orphans: bool,

    #[command(flatten)]
    submit: Submit,
}

impl Up {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let selection = Selection { services: self.services.clone(), nodes: self.nodes };
        let mut project = project::load(context, self.compose.clone(), selection)?;
        project::tell_notes(&project);
        if self.remove_orphans {
            output::note(
                "note: --remove-orphans has no effect: `convoke stop JOB` ends a job that the file no longer has",
            );
        }
        let mut jobs = self.named(std::mem::take(&mut project.jobs))?;
        ship::name_builds(&mut jobs);
        let session = Session::open(context, self.submit.detach || self.dry_run).await?;
        if self.dry_run {
            let jobs = in_order(jobs);
            let Session { link, screen, .. } = &session;
            let shipping = Shipping { link, screen, args: &self.submit.ship };
            let planned = Box::pin(plan(context, &shipping, &jobs, self.submit.wait_for_nodes));
            return signals::or_interrupted(planned).await;
        }
        let run = Box::pin(self.submit.run(context, session, jobs)).await;
        run.map_err(|failure| failure.located(&project))
    }

    /// The jobs, one of them under the name asked for.
    fn named(&self, mut jobs: Vec<JobSpec>) -> Result<Vec<JobSpec>, Failure> {
        let Some(name) = &self.name else { return Ok(jobs) };
        let [job] = jobs.as_mut_slice() else {
            let services: Vec<_> = jobs.iter().map(|job| job.service.as_str()).collect();
            return Err(Failure::usage(format!(
                "--name is for one job, and the file has {}",
                services.join(", ")
            ))
            .hint("name the service: convoke up SERVICE --name NAME"));
        };
        job.name = convoke_model::JobName::new(name).map_err(|e| Failure::usage(format!("--name: {e}")))?;
        Ok(jobs)
    }
}

/// `--dry-run`: where each job would go once those before it have their places, and what would travel.
async fn plan(
    context: &Context,
    shipping: &Shipping<'_>,
    jobs: &[JobSpec],
    wait_for_nodes: bool,
) -> Result<(), Failure> {
    let mut plans = Vec::new();
    let mut never = None;
    for (n, job) in jobs.iter().enumerate() {
        let plan = planned(shipping.link, job, &beside(&jobs[..n], job)).await?;
        if plan.never_fits && never.is_none() {
            let message = format!("{} fits on no set of registered nodes", job.name);
            never = Some(Failure::new(exit::REFUSED, "NEVER_FITS", message));
        }
        if context.format.is_json() {
            plans.push(object!({ "name": job.name, "plan": json("PlanJobResponse", &plan) }));
        } else if plan.replicas.is_empty() {
            let verb = if plan.never_fits { "would be refused" } else { "would be queued" };
            output::line(&format!("{}: {verb}: {}", job.name, plan.reason))?;
        } else {
            let world = text::count(plan.world_size as usize, "rank");
            let nodes = text::count(plan.replicas.len(), "node");
            output::line(&format!("{}: {world} on {nodes}", job.name))?;
            inspect::replicas(&plan.replicas)?;
        }
    }
    let would = shipping.would_ship(jobs).await?;
    if !context.format.is_json() {
        would.sentences().iter().try_for_each(|sentence| output::line(sentence))?;
    }
    if context.format.is_json() {
        output::document(&object!({ "plans": plans, "shipping": would.json() }))?;
    }
    match never {
        Some(failure) if !wait_for_nodes => Err(refused(failure, "", &[])),
        _ => Ok(()),
    }
}

//! `convoke up`: submits the project's services as jobs and follows them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use convoke_model::JobSpec;
use convoke_proto::v1;
use serde_json::json as object;
use uuid::Uuid;

use super::args::Compose;
use super::attach::{Attachment, Screen, View};
use super::failure::{Failure, exit};
use super::json::json;
use super::link::Link;
use super::project::{self, Selection};
use super::receive::{self, Places, Receiver};
use super::ship::{Sent, ShipArgs, Shipping};
use super::signals::{Interrupt, Interrupts};
use super::{Context, inspect, output, pull, ship, stop, text, wait};

/// When it is said that only files are waited for.
const FILES_LATE: Duration = Duration::from_secs(5);

/// Submit the services of a Compose file as jobs and follow them
///
/// Shows what every rank prints until the jobs have ended. Ctrl-C stops the jobs; a second Ctrl-C
/// leaves at once. When the terminal goes away, the jobs go on.
///
/// What containers mount from here by a relative path travels: it is sent to the nodes, as far as they
/// lack it, and what the job writes into it comes back here. A .convokeignore (written as a .gitignore)
/// leaves out what the job does not need.
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

    /// Return once the jobs are accepted
    #[arg(short, long)]
    detach: bool,

    /// Number of nodes, instead of deploy.replicas
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Option<u32>,

    /// Name of the job (of one service)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Stop a running job of the same name and go on from its last complete checkpoint
    #[arg(long)]
    replace: bool,

    /// Show the placement the jobs would get now, or why none; submit nothing
    #[arg(long, conflicts_with_all = ["detach", "replace"])]
    dry_run: bool,

    /// Accept jobs that no registered nodes could hold: nodes will be added
    #[arg(long)]
    wait_for_nodes: bool,

    #[command(flatten)]
    ship: ShipArgs,
}

impl Up {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let mut interrupts = Interrupts::listen()?;
        let selection = Selection { services: self.services.clone(), nodes: self.nodes };
        let project = project::load(context, self.compose.clone(), selection)?;
        project::tell_notes(&project);
        let mut jobs = self.named(project.jobs)?;
        ship::name_builds(&mut jobs);
        let document = self.detach || self.dry_run;
        let screen =
            if document { Screen::beside_a_document(context.format) } else { Screen::new(context.format) };
        let teller = screen.clone();
        let say = Box::new(move |text: &str| teller.note(&format!("convoke: {text}")));
        let link = context.link_saying(say).await?;
        let submitted = async {
            let shipping = Shipping { link: &link, screen: &screen, args: &self.ship };
            if self.dry_run {
                return Box::pin(plan(context, &shipping, &jobs, self.wait_for_nodes)).await.map(|()| None);
            }
            if jobs.iter().any(ship::travels) {
                self.check_first(&link, &jobs).await?;
            }
            Box::pin(self.ship_and_submit(&shipping, &mut jobs)).await.map(Some)
        };
        let submitted = tokio::select! {
            submitted = submitted => submitted?,
            _ = interrupts.next() => return Err(Failure::interrupted()),
        };
        match submitted {
            None => Ok(()),
            Some((jobs, _)) if self.detach => stop::print(context, jobs),
            Some((jobs, sent)) => attached(&link, screen, jobs, sent, interrupts).await,
        }
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

    /// What a submit would refuse is refused before anything is shipped.
    async fn check_first(&self, link: &Link, jobs: &[JobSpec]) -> Result<(), Failure> {
        for job in jobs {
            let plan = planned(link, job).await?;
            if plan.never_fits && !self.wait_for_nodes {
                let message = format!("{} fits on no set of registered nodes: {}", job.name, plan.reason);
                return Err(refused(Failure::new(exit::REFUSED, "NEVER_FITS", message), "", &[]));
            }
            if !self.replace
                && let Ok(other) = inspect::get(link, job.name.as_str()).await
                && text::job_name(&other) == job.name.as_str()
                && !text::is_final(&other)
            {
                let message = format!("job \"{}\" ({}) has not ended", job.name, other.id);
                return Err(refused(
                    Failure::new(exit::REFUSED, "NAME_TAKEN", message),
                    job.name.as_str(),
                    &[],
                ));
            }
        }
        Ok(())
    }

    /// Takes along what the jobs need, and submits them.
    async fn ship_and_submit(
        &self,
        shipping: &Shipping<'_>,
        jobs: &mut [JobSpec],
    ) -> Result<(Vec<v1::Job>, Vec<Sent>), Failure> {
        let mut again = true;
        let mut accepted = Vec::new();
        loop {
            let since = SystemTime::now();
            let sent = shipping.ship(jobs).await?;
            match self.submit(shipping.link, jobs, &mut accepted).await {
                Ok(()) => {
                    accepted.iter().zip(jobs).filter(|(_, job)| ship::travels(job)).for_each(
                        |(accepted, _)| {
                            receive::submitted(&accepted.id, since);
                        },
                    );
                    return Ok((accepted, sent));
                }
                // The coordinator lost some of it since it was asked: its disk was damaged, say.
                Err(failure) if failure.reason == "MISSING_CONTENT" && again => again = false,
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Submits all; when one is refused, says which had been accepted before.
    async fn submit(
        &self,
        link: &Link,
        specs: &[JobSpec],
        accepted: &mut Vec<v1::Job>,
    ) -> Result<(), Failure> {
        for spec in &specs[accepted.len()..] {
            let request = v1::SubmitJobRequest {
                idempotency_key: Uuid::new_v4().to_string(),
                spec: Some(spec.clone().into()),
                replace: self.replace,
                wait_for_nodes: self.wait_for_nodes,
            };
            let answer = link.call(request, |mut c, r| async move { c.jobs.submit_job(r).await }).await;
            match answer.map(|response| response.job) {
                Ok(Some(job)) => accepted.push(job),
                Ok(None) => return Err(Failure::new(exit::FAILED, "COORDINATOR", "the answer names no job")),
                Err(failure) => return Err(refused(failure, spec.name.as_str(), accepted)),
            }
        }
        Ok(())
    }
}

/// Adds what to do to a refused submit.
fn refused(mut failure: Failure, name: &str, accepted: &[v1::Job]) -> Failure {
    if failure.hint.is_none() {
        failure.hint = match failure.reason.as_str() {
            "NAME_TAKEN" => Some(format!(
                "--replace stops it and goes on from its last checkpoint; --name NAME runs another beside it; \
                 `convoke logs -f {name}` follows it"
            )),
            "NEVER_FITS" => {
                Some("--nodes N asks for fewer; --wait-for-nodes queues it until nodes are added".to_owned())
            }
            _ => None,
        };
    }
    if !accepted.is_empty() {
        let names: Vec<_> = accepted.iter().map(text::job_name).collect();
        failure.message += &format!(" (accepted before it and running: {})", names.join(", "));
    }
    failure
}

async fn planned(link: &Link, job: &JobSpec) -> Result<v1::PlanJobResponse, Failure> {
    let request = v1::PlanJobRequest { spec: Some(job.clone().into()) };
    link.call(request, |mut c, r| async move { c.jobs.plan_job(r).await }).await
}

/// `--dry-run`: where each job would go, and what would travel.
async fn plan(
    context: &Context,
    shipping: &Shipping<'_>,
    jobs: &[JobSpec],
    wait_for_nodes: bool,
) -> Result<(), Failure> {
    let mut plans = Vec::new();
    let mut never = None;
    for job in jobs {
        let plan = planned(shipping.link, job).await?;
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

/// Who brings the files of each job back; none for jobs that write none.
fn receivers(
    link: &Arc<Link>,
    screen: &Screen,
    jobs: &[v1::Job],
    sent: Vec<Sent>,
) -> Result<Vec<Option<Receiver>>, Failure> {
    let receiver = |(job, sent): (&v1::Job, Sent)| {
        let places = Places::of(&pull::spec(job)?, None)?;
        Ok((!places.is_empty()).then(|| Receiver::new(link, screen, job, places, sent)))
    };
    jobs.iter().zip(sent).map(receiver).collect()
}

/// Follows `jobs` to their end and their last file; the first interrupt stops them, the second leaves.
async fn attached(
    link: &Arc<Link>,
    screen: Screen,
    jobs: Vec<v1::Job>,
    sent: Vec<Sent>,
    mut interrupts: Interrupts,
) -> Result<(), Failure> {
    let receivers = receivers(link, &screen, &jobs, sent)?;
    let mut updates = Attachment::new(link, &jobs, receivers);
    let mut view = View::new(screen.clone(), &jobs);
    let mut stopping: Option<tokio::task::JoinSet<()>> = None;
    let mut told_of_files = false;
    loop {
        let silent = updates.only_files_are_to_come() && !told_of_files;
        tokio::select! {
            update = updates.next() => match update? {
                Some(update) => view.update(update)?,
                None => break,
            },
            () = tokio::time::sleep(FILES_LATE), if silent => {
                told_of_files = true;
                screen.note("waiting for the last files (Ctrl-C leaves; `convoke pull` brings them later)");
            }
            interrupt = interrupts.next() => match (interrupt, &stopping) {
                (Interrupt::Stop, None) if !updates.only_files_are_to_come() => {
                    stopping = Some(stop_all(link, &screen, &view.jobs()));
                }
                (Interrupt::Hangup, None) => return Err(Failure::interrupted()),
                (_, _) => {
                    view.finish();
                    screen.note(left(updates.only_files_are_to_come()));
                    return Err(Failure::interrupted());
                }
            },
        }
    }
    view.finish();
    match stopping {
        Some(_) => Err(Failure::interrupted()),
        None => wait::outcome(&view.jobs()).and_then(|()| view.files_outcome()),
    }
}

fn left(only_files: bool) -> &'static str {
    if only_files {
        "left; `convoke pull JOB` brings the files that were still to come"
    } else {
        "left; the jobs go on stopping, see `convoke ps -a`"
    }
}

/// Asks for the end of all, beside the updates that tell of it.
fn stop_all(link: &Arc<Link>, screen: &Screen, jobs: &[v1::Job]) -> tokio::task::JoinSet<()> {
    let running: Vec<_> = jobs.iter().filter(|job| !text::is_final(job)).cloned().collect();
    let names: Vec<_> = running.iter().map(text::job_name).collect();
    screen.note(&format!("stopping {} (Ctrl-C again leaves at once)", names.join(", ")));
    let mut tasks = tokio::task::JoinSet::new();
    for job in running {
        let (link, screen) = (link.clone(), screen.clone());
        tasks.spawn(async move {
            if let Err(failure) = stop::ask(&link, &job.id, None).await {
                screen.note(&format!("{} could not be stopped: {}", text::job_name(&job), failure.message));
            }
        });
    }
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_offers_replace_and_name() {
        let failure = Failure::new(exit::REFUSED, "NAME_TAKEN", "job \"train\" is running");
        let hint = refused(failure, "train", &[]).hint.unwrap();
        assert!(hint.contains("--replace") && hint.contains("--name"), "{hint}");
    }
}

//! What `up` and `run` have in common: taking along what jobs need, submitting them, following them to
//! their end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use convoke_model::JobSpec;
use convoke_proto::v1;
use uuid::Uuid;

use super::attach::{Attachment, Screen, View};
use super::failure::{Failure, exit};
use super::link::Link;
use super::receive::{self, Places, Receiver};
use super::ship::{self, Sent, ShipArgs, Shipping};
use super::signals::{Interrupt, Interrupts};
use super::{Context, inspect, pull, stop, text, wait};

/// When it is said that only files are waited for.
const FILES_LATE: Duration = Duration::from_secs(5);

/// How jobs are submitted.
#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// Return once the jobs are accepted
    #[arg(short, long)]
    pub(crate) detach: bool,

    /// Stop a running job of the same name and go on from its last complete checkpoint
    #[arg(long)]
    pub(crate) replace: bool,

    /// Accept jobs that no registered nodes could hold: nodes will be added
    #[arg(long)]
    pub(crate) wait_for_nodes: bool,

    #[command(flatten)]
    pub(crate) ship: ShipArgs,
}

/// The user's terminal, and the coordinator.
pub(crate) struct Session {
    pub(crate) link: Arc<Link>,
    pub(crate) screen: Screen,
    interrupts: Interrupts,
}

impl Session {
    /// Listens for Ctrl-C from here on. `document` says that one answer is printed at the end.
    pub(crate) async fn open(context: &Context, document: bool) -> Result<Self, Failure> {
        let interrupts = Interrupts::listen()?;
        let screen =
            if document { Screen::beside_a_document(context.format) } else { Screen::new(context.format) };
        let teller = screen.clone();
        let say = Box::new(move |text: &str| teller.note(&format!("convoke: {text}")));
        Ok(Self { link: context.link_saying(say).await?, screen, interrupts })
    }
}

impl Submit {
    /// Submits the jobs and follows them to their end, or lists them with `--detach`.
    pub(crate) async fn run(
        &self,
        context: &Context,
        session: Session,
        mut jobs: Vec<JobSpec>,
    ) -> Result<(), Failure> {
        let Session { link, screen, mut interrupts } = session;
        // What another waits for goes first, so that nobody reads of a service that is not there.
        jobs.sort_by_key(|job| !job.container.depends_on.is_empty());
        let submitted = async {
            let shipping = Shipping { link: &link, screen: &screen, args: &self.ship };
            if jobs.iter().any(ship::travels) {
                self.check_first(&link, &jobs).await?;
            }
            Box::pin(self.ship_and_submit(&shipping, &mut jobs)).await
        };
        let (jobs, sent) = tokio::select! {
            submitted = submitted => submitted?,
            _ = interrupts.next() => return Err(Failure::interrupted()),
        };
        if self.detach {
            return stop::print(context, jobs);
        }
        attached(&link, screen, jobs, sent, interrupts).await
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
pub(crate) fn refused(mut failure: Failure, name: &str, accepted: &[v1::Job]) -> Failure {
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

pub(crate) async fn planned(link: &Link, job: &JobSpec) -> Result<v1::PlanJobResponse, Failure> {
    let request = v1::PlanJobRequest { spec: Some(job.clone().into()) };
    link.call(request, |mut c, r| async move { c.jobs.plan_job(r).await }).await
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

//! What `up` and `run` have in common: taking along what jobs need, submitting them, following them to
//! their end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use convoke_model::JobSpec;
use convoke_proto::v1;
use uuid::Uuid;

use super::attach::{self, Screen};
use super::failure::{Failure, exit};
use super::link::Link;
use super::receive::{self, Places};
use super::ship::{self, Sent, ShipArgs, Shipping};
use super::signals::Interrupts;
use super::{Context, inspect, stop, text};

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

    /// How long to wait for files that are still on their nodes after the jobs' end, while none comes
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration, conflicts_with = "detach")]
    pub(crate) wait_for_files: Duration,

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
        // What waits for nobody goes first: fewer jobs are told of a service that is not there yet.
        jobs.sort_by_key(|job| !job.container.depends_on.is_empty());
        let submitted = async {
            let shipping = Shipping { link: &link, screen: &screen, args: &self.ship };
            if jobs.iter().any(ship::travels) {
                self.check_first(&link, &jobs).await?;
            }
            Box::pin(self.ship_and_submit(&shipping, &mut jobs)).await
        };
        let (jobs, places) = tokio::select! {
            submitted = submitted => submitted?,
            _ = interrupts.next() => return Err(Failure::interrupted()),
        };
        if self.detach {
            return stop::print(context, jobs);
        }
        attach::to_the_end(&link, screen, jobs, places, interrupts, self.wait_for_files).await
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
    ) -> Result<(Vec<v1::Job>, Vec<(Places, Sent)>), Failure> {
        let mut again = true;
        let mut accepted = Vec::new();
        loop {
            let since = SystemTime::now();
            let sent = shipping.ship(jobs).await?;
            match self.submit(shipping.link, jobs, &mut accepted).await {
                Ok(()) => {
                    accepted.iter().zip(&*jobs).filter(|(_, job)| ship::travels(job)).for_each(
                        |(accepted, _)| {
                            receive::submitted(&accepted.id, since);
                        },
                    );
                    // By what was submitted: where files go is not the coordinator's to say.
                    let places = jobs.iter().map(|job| Places::of(job, None));
                    let places = places.zip(sent).map(|(places, sent)| Ok((places?, sent)));
                    return Ok((accepted, places.collect::<Result<_, Failure>>()?));
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

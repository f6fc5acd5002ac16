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
use super::order::in_order;
use super::receive::{self, Places};
use super::ship::{self, Sent, ShipArgs, Shipping};
use super::signals::{Interrupt, Interrupts};
use super::{Context, inspect, stop, text};

/// How jobs are submitted.
#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// Return once the jobs are accepted
    #[arg(short, long)]
    pub(crate) detach: bool,

    /// Stop a running job of the same name and go on from its last complete checkpoint
    #[arg(long, alias = "force-recreate")]
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
        jobs = in_order(jobs);
        let mut progress = Progress::default();
        let interrupt = tokio::select! {
            submitted = Box::pin(self.submit(&link, &screen, &mut jobs, &mut progress)) => {
                submitted?;
                None
            }
            interrupt = interrupts.next() => Some(interrupt),
        };
        if let Some(interrupt) = interrupt {
            progress.find_out(&link, &screen, &mut interrupts).await?;
            let left = &jobs[progress.accepted.len()..];
            if self.detach || interrupt == Interrupt::Hangup || progress.accepted.is_empty() {
                return Err(interrupted(&progress.accepted, left));
            }
            if !left.is_empty() {
                screen.note(&not_submitted(left));
            }
            interrupts.again(interrupt);
        } else if self.detach {
            return stop::print(context, progress.accepted);
        }
        let places = progress.places(&jobs)?;
        attach::to_the_end(&link, screen, progress.accepted, places, interrupts, self.wait_for_files).await
    }

    /// What a submit would refuse is refused before anything is shipped.
    async fn check_first(&self, link: &Link, jobs: &[JobSpec]) -> Result<(), Failure> {
        for job in jobs {
            let plan = planned(link, job, &[]).await?;
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
    async fn submit(
        &self,
        link: &Arc<Link>,
        screen: &Screen,
        jobs: &mut [JobSpec],
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let travels = jobs.iter().any(ship::travels);
        if travels {
            self.check_first(link, jobs).await?;
        }
        let shipping = Shipping { link, screen, args: &self.ship };
        let mut again = true;
        loop {
            progress.since = travels.then(SystemTime::now);
            progress.sent = shipping.ship(jobs).await?;
            match self.submit_rest(link, jobs, progress).await {
                // The coordinator lost some of it since it was asked: its disk was damaged, say.
                Err(failure) if failure.reason == "MISSING_CONTENT" && again => again = false,
                submitted => return submitted,
            }
        }
    }

    /// Submits what is not accepted yet; when one is refused, says which had been accepted before.
    async fn submit_rest(
        &self,
        link: &Link,
        specs: &[JobSpec],
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        for spec in &specs[progress.accepted.len()..] {
            let request = v1::SubmitJobRequest {
                idempotency_key: Uuid::new_v4().to_string(),
                spec: Some(spec.clone().into()),
                replace: self.replace,
                wait_for_nodes: self.wait_for_nodes,
            };
            progress
                .ask(link, request)
                .await
                .map_err(|failure| refused(failure, spec.name.as_str(), &progress.accepted))?;
        }
        Ok(())
    }
}

/// How far a submit has come: what an interrupt leaves behind.
#[derive(Default)]
struct Progress {
    /// When the files were looked at, where some travel, and what each job's mounts held.
    since: Option<SystemTime>,
    sent: Vec<Sent>,
    /// What was asked and is not answered.
    asked: Option<v1::SubmitJobRequest>,
    /// The first of the jobs.
    accepted: Vec<v1::Job>,
}

impl Progress {
    async fn ask(&mut self, link: &Link, request: v1::SubmitJobRequest) -> Result<(), Failure> {
        self.asked = Some(request.clone());
        let answer = link.call(request, |mut c, r| async move { c.jobs.submit_job(r).await });
        let answer = Box::pin(answer).await;
        // A refusal is an answer too: asked again, it might be accepted by now.
        self.asked = None;
        let job = answer?.job;
        let job = job.ok_or_else(|| Failure::new(exit::FAILED, "COORDINATOR", "the answer names no job"))?;
        if let Some(since) = self.since {
            receive::submitted(&job.id, since);
        }
        self.accepted.push(job);
        Ok(())
    }

    /// After an interrupt: asks again what was not answered. The same key is the same job, accepted or not.
    async fn find_out(
        &mut self,
        link: &Link,
        screen: &Screen,
        interrupts: &mut Interrupts,
    ) -> Result<(), Failure> {
        let Some(request) = self.asked.take() else { return Ok(()) };
        let name = request.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
        screen
            .note(&format!("interrupted: asking whether {name} was accepted (Ctrl-C again leaves at once)"));
        let why = tokio::select! {
            asked = self.ask(link, request) => match asked {
                Ok(()) => return Ok(()),
                Err(failure) if failure.exit == exit::REFUSED => return Ok(()),
                Err(failure) => failure.message,
            },
            _ = interrupts.next() => "interrupted again".to_owned(),
        };
        let mut names = names(&self.accepted);
        let accepted =
            if names.is_empty() { String::new() } else { format!("; running: {}", names.join(", ")) };
        names.push(&name);
        let message = format!("whether {name} was accepted is not known: {why}{accepted}");
        let stop = names.join(" ");
        Err(Failure::new(exit::INTERRUPTED, "INTERRUPTED", message)
            .hint(format!("`convoke ps -a` shows it if it was; `convoke stop {stop}` ends what runs")))
    }

    /// Where the files of the accepted jobs go: by what was submitted, for it is not the coordinator's to say.
    fn places(&mut self, specs: &[JobSpec]) -> Result<Vec<(Places, Sent)>, Failure> {
        let specs = specs.iter().take(self.accepted.len());
        specs
            .zip(std::mem::take(&mut self.sent))
            .map(|(job, sent)| Ok((Places::of(job, None)?, sent)))
            .collect()
    }
}

/// What an interrupt of a submit leaves, where nothing is stopped.
fn interrupted(accepted: &[v1::Job], left: &[JobSpec]) -> Failure {
    let failure = |message| Failure::new(exit::INTERRUPTED, "INTERRUPTED", message);
    if accepted.is_empty() {
        return failure("interrupted before anything was submitted".to_owned());
    }
    let one = |job: &v1::Job| format!("{} ({})", text::job_name(job), job.id);
    let running = accepted.iter().map(one).collect::<Vec<_>>().join(", ");
    let rest = if left.is_empty() { String::new() } else { format!("; {}", not_submitted(left)) };
    failure(format!("interrupted; accepted and running: {running}{rest}"))
        .hint(format!("`convoke stop {}` ends what runs", names(accepted).join(" ")))
}

fn not_submitted(jobs: &[JobSpec]) -> String {
    let names: Vec<_> = jobs.iter().map(|job| job.name.as_str()).collect();
    format!("not submitted: {}", names.join(", "))
}

fn names(jobs: &[v1::Job]) -> Vec<&str> {
    jobs.iter().map(text::job_name).collect()
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
                let hint = "--nodes N asks for fewer, `convoke nodes` lists what is there; --wait-for-nodes queues it \
                            until nodes are added";
                Some(hint.to_owned())
            }
            _ => None,
        };
    }
    if !accepted.is_empty() {
        let names = names(accepted);
        failure.message += &format!(
            " (accepted before it and running: {}; `convoke stop {}` ends what runs)",
            names.join(", "),
            names.join(" ")
        );
    }
    failure
}

/// Where a job would go now, if those `before` it had been placed.
pub(crate) async fn planned(
    link: &Link,
    job: &JobSpec,
    before: &[&JobSpec],
) -> Result<v1::PlanJobResponse, Failure> {
    let before = before.iter().map(|&job| job.clone().into()).collect();
    let request = v1::PlanJobRequest { spec: Some(job.clone().into()), before };
    link.call(request, |mut c, r| async move { c.jobs.plan_job(r).await }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_refused_is_not_asked_for_again() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let link = Link::connect(&url, Duration::ZERO, Box::new(|_| {})).await.unwrap();
        drop(silent);
        let mut progress = Progress::default();
        progress.ask(&link, v1::SubmitJobRequest::default()).await.unwrap_err();
        assert_eq!(progress.asked, None);
    }

    #[test]
    fn a_taken_name_offers_replace_and_name() {
        let failure = Failure::new(exit::REFUSED, "NAME_TAKEN", "job \"train\" is running");
        let hint = refused(failure, "train", &[]).hint.unwrap();
        assert!(hint.contains("--replace") && hint.contains("--name"), "{hint}");
    }
}

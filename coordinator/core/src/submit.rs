//! What users ask for: submit, stop, restart. Each answers three ways: done, already so, denied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use convoke_model::{
    EventLevel, Generation, IdempotencyKey, InvalidSpec, JobId, JobName, JobSpec, MAX_DEVICES_PER_REPLICA,
    millis,
};

use crate::draft::Draft;
use crate::{Change, Denied, Job, JobRun, MAX_ACTIVE_JOBS, Phase, Queued, Then};

/// The job that the request has been granted for already, if it has.
pub(crate) type Granted = Option<JobId>;

/// A submit's parts.
pub(crate) struct Submit {
    pub(crate) id: JobId,
    pub(crate) key: IdempotencyKey,
    pub(crate) spec: JobSpec,
    pub(crate) replace: bool,
    pub(crate) wait_for_nodes: bool,
}

impl Draft<'_> {
    pub(crate) fn submit(&mut self, submit: Submit) -> Result<Granted, Denied> {
        let Submit { id, key, spec, replace, wait_for_nodes } = submit;
        if let Some(known) = self.state.jobs.values().find(|job| job.key == key) {
            let job = known.id.clone();
            return if *known.spec == spec { Ok(Some(job)) } else { Err(Denied::KeyReused { job }) };
        }
        if self.state.jobs.contains_key(&id) {
            return Err(Denied::IdTaken(id));
        }
        validate(&spec)?;
        self.check_room()?;
        let namesakes = self.unended_of(&spec.name);
        if let (Some(job), false) = (namesakes.first(), replace) {
            return Err(Denied::NameTaken { name: spec.name, job: job.clone() });
        }
        if let (Some(why), false) = (self.never_fits(&spec), wait_for_nodes) {
            return Err(Denied::NeverFits(why));
        }
        for old in &namesakes {
            self.stop(old, None, &format!("replaced by job {id}"))?;
        }
        let queued = Queued { after: namesakes, ..Queued::default() };
        let job = Job {
            id: id.clone(),
            spec: Arc::new(spec),
            key,
            order: self.state.submitted + 1,
            submitted: self.now,
            run: fresh_run(queued),
            checkpoints: Vec::new(),
            unique_ids: BTreeMap::new(),
        };
        let message = format!("job \"{}\" submitted", job.spec.name);
        self.make(Change::JobSubmitted { job: Box::new(job) });
        self.tell_job(EventLevel::Info, "JobSubmitted", &id, message);
        Ok(None)
    }

    fn check_room(&self) -> Result<(), Denied> {
        let active = self.state.jobs.values().filter(|job| !job.run.phase.is_final()).count();
        if active < MAX_ACTIVE_JOBS { Ok(()) } else { Err(Denied::TooManyJobs) }
    }

    /// Jobs of that name that have not ended, oldest first.
    fn unended_of(&self, name: &JobName) -> Vec<JobId> {
        let jobs = self.state.jobs.values();
        let mut found: Vec<&Arc<Job>> =
            jobs.filter(|job| job.spec.name == *name && !job.run.phase.is_final()).collect();
        found.sort_by_key(|job| job.order);
        found.into_iter().map(|job| job.id.clone()).collect()
    }

    pub(crate) fn stop(&mut self, id: &JobId, grace: Option<Duration>, why: &str) -> Result<Granted, Denied> {
        let job = self.find(id)?;
        let then = Then::Stop { reason: why.to_owned() };
        match &job.run.phase {
            Phase::Succeeded | Phase::Failed { .. } | Phase::Stopped { .. } => return Ok(Some(id.clone())),
            Phase::Queued(_) => {
                let phase = Phase::Stopped { reason: why.to_owned() };
                self.finish(id, phase, EventLevel::Info, "JobStopped", why);
            }
            Phase::Starting(_) | Phase::Running(_) => {
                let grace_ms = millis(grace.unwrap_or(job.spec.stop_grace));
                self.drain(id, then, grace_ms);
            }
            Phase::Draining(draining) => {
                let grace_ms = grace.map_or(draining.grace_ms, millis);
                if matches!(draining.then, Then::Stop { .. }) && grace_ms == draining.grace_ms {
                    return Ok(Some(id.clone()));
                }
                self.redirect(id, then, grace_ms);
            }
        }
        Ok(None)
    }

    pub(crate) fn restart(&mut self, id: &JobId) -> Result<Granted, Denied> {
        let job = self.find(id)?;
        match &job.run.phase {
            Phase::Succeeded | Phase::Failed { .. } | Phase::Stopped { .. } => self.revive(id)?,
            Phase::Queued(queued) if queued.not_before.is_none() => return Ok(Some(id.clone())),
            Phase::Queued(queued) => {
                let phase = Phase::Queued(Queued { not_before: None, ..queued.clone() });
                self.edit(id, |run| run.phase = phase);
            }
            Phase::Starting(_) | Phase::Running(_) => {
                let grace_ms = millis(job.spec.stop_grace);
                self.drain(id, Then::Restart, grace_ms);
            }
            Phase::Draining(draining) if draining.then == Then::Restart => return Ok(Some(id.clone())),
            Phase::Draining(draining) => {
                let grace_ms = draining.grace_ms;
                self.redirect(id, Then::Restart, grace_ms);
            }
        }
        Ok(None)
    }

    /// An ended job starts over, with its checkpoints and with full budgets.
    fn revive(&mut self, id: &JobId) -> Result<(), Denied> {
        self.check_room()?;
        let name = self.job(id).spec.name.clone();
        if let Some(job) = self.unended_of(&name).first() {
            return Err(Denied::NameTaken { name, job: job.clone() });
        }
        self.edit(id, |run| {
            run.phase = Phase::Queued(Queued::default());
            (run.restarts_infrastructure, run.restarts_application, run.refusals) = (0, 0, 0);
            (run.unanswered_pulls, run.quick_ends) = (0, 0);
            (run.ran_ms, run.started, run.finished) = (0, None, None);
        });
        self.tell_job(EventLevel::Info, "JobRestarting", id, "started again by a user".to_owned());
        Ok(())
    }

    /// A drain that is under way ends otherwise than it would have; the last request counts.
    fn redirect(&mut self, id: &JobId, then: Then, grace_ms: u64) {
        let message = then.reason().to_owned();
        self.edit_drain(id, |draining| {
            draining.then = then;
            draining.grace_ms = grace_ms;
        });
        self.touch_gang(id);
        self.tell_job(EventLevel::Info, "JobStopping", id, message);
    }
}

pub(crate) fn validate(spec: &JobSpec) -> Result<(), InvalidSpec> {
    spec.validate()?;
    match spec.procs_per_task {
        Some(n) if n > MAX_DEVICES_PER_REPLICA => Err(InvalidSpec {
            field: "command",
            problem: format!("nproc_per_node {n} is not between 1 and {MAX_DEVICES_PER_REPLICA}"),
        }),
        _ => Ok(()),
    }
}

fn fresh_run(queued: Queued) -> JobRun {
    JobRun {
        phase: Phase::Queued(queued),
        generation: Generation(0),
        gang: None,
        inherited: None,
        restarts_infrastructure: 0,
        restarts_application: 0,
        refusals: 0,
        unanswered_pulls: 0,
        quick_ends: 0,
        started: None,
        ran_ms: 0,
        finished: None,
        last_failure: None,
        files_of: Vec::new(),
    }
}

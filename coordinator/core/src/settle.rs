//! Carrying verdicts out: the transitions between a job's phases.
//!
//! After every event each active job is judged until nothing follows any more, then the queue is
//! placed, then what is no longer needed is dropped.

use convoke_model::{
    DeviceId, EventLevel, Failure, FailureClass, Generation, JobId, NodeId, NodeRank, NodeState,
    ObservedTask, Rendezvous, ReplicaKey, RestartPolicy, millis,
};

use crate::blame;
use crate::draft::Draft;
use crate::gang::{self, Clock, Verdict};
use crate::pauses;
use crate::place::plural;
use crate::{
    Change, Draining, FREE_PLACEMENTS, FailedGeneration, Ghost, Job, Phase, Queued, Release, Running, Stage,
    Starting, Then,
};

impl Draft<'_> {
    /// Everything that follows from the state as it is now.
    pub(crate) fn settle(&mut self) {
        let active: Vec<JobId> =
            self.state.jobs.values().filter(|j| j.run.phase.has_gang()).map(|j| j.id.clone()).collect();
        for job in active {
            while let Some(verdict) = self.judge(&job) {
                self.carry_out(&job, verdict);
            }
        }
        self.schedule();
        self.forget_ended();
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock {
            now: self.now,
            window_end: self.sessions.window_end(self.config),
            fence_margin: self.config.fence_margin,
        }
    }

    fn judge(&self, id: &JobId) -> Option<Verdict> {
        let job = self.job(id);
        gang::judge(job, &self.members(job), &self.clock())
    }

    fn carry_out(&mut self, id: &JobId, verdict: Verdict) {
        match verdict {
            Verdict::Release(rendezvous) => self.release(id, rendezvous),
            Verdict::AllRun => self.all_run(id),
            Verdict::Succeed => self.succeed(id),
            Verdict::Drain { then, grace_ms } => self.drain(id, then, grace_ms),
            Verdict::GiveUp(ranks) => self.edit_drain(id, |draining| draining.given_up.extend(ranks)),
            Verdict::TellOverdue(nodes) => {
                self.edit_drain(id, |draining| draining.overdue_told = true);
                let names: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
                let message = format!("still not ended on {}; see the agents' logs there", names.join(", "));
                self.tell_job(EventLevel::Warning, "DrainOverdue", id, message);
            }
            Verdict::Drained => self.drained(id),
        }
    }

    fn release(&mut self, id: &JobId, rendezvous: Rendezvous) {
        let deadline = self.now.after(self.config.prepare_timeout);
        let message = format!(
            "every replica is ready; rendezvous at {}:{}",
            rendezvous.master_addr, rendezvous.master_port
        );
        let services = self.services(self.job(id));
        let rendezvous = Rendezvous { services, ..rendezvous };
        let stage = Stage::Released(Release { rendezvous, revision: self.next_revision() });
        self.edit(id, |run| run.phase = Phase::Starting(Starting { deadline, stage }));
        self.touch_gang(id);
        self.tell_job(EventLevel::Info, "GenerationReleased", id, message);
    }

    /// A preparation that moves is not too slow, however large the image.
    pub(crate) fn grant_time(&mut self, replica: &ReplicaKey) {
        let current =
            self.state.jobs.get(&replica.job).is_some_and(|j| j.run.generation == replica.generation);
        let deadline = self.now.after(self.config.prepare_timeout);
        if !current {
            return;
        }
        self.edit(&replica.job, |run| {
            if let Phase::Starting(Starting { deadline: at, stage: Stage::Preparing }) = &mut run.phase {
                *at = deadline;
            }
        });
    }

    fn all_run(&mut self, id: &JobId) {
        let now = self.now;
        let Phase::Starting(Starting { stage: Stage::Released(release), .. }) =
            self.job(id).run.phase.clone()
        else {
            return;
        };
        self.edit(id, |run| {
            run.phase = Phase::Running(Running { release, since: now });
            run.started.get_or_insert(now);
        });
        let nodes = self.job(id).run.gang.iter().flat_map(|g| &g.placement.replicas).count();
        self.tell_job(
            EventLevel::Info,
            "JobRunning",
            id,
            format!("runs on {nodes} {}", plural(nodes, "node")),
        );
    }

    fn succeed(&mut self, id: &JobId) {
        self.end_generation(id, None);
        if self.job(id).spec.restart.after_success {
            return self.start_over(id);
        }
        self.finish(id, Phase::Succeeded, EventLevel::Info, "JobSucceeded", "every task exited with 0");
    }

    /// What is not meant to end goes on with the next generation, charged to no budget: as engines do, after a
    /// pause that doubles while it ends at once.
    fn start_over(&mut self, id: &JobId) {
        let now = self.now;
        self.edit(id, |run| pauses::count_run(run, now));
        let pause_ms = pauses::after_end(&self.job(id).run);
        self.tell_job(EventLevel::Info, "JobStartsOver", id, "every task exited with 0".to_owned());
        self.requeue(id, pause_ms, "starts over after its end, as its restart policy says", Vec::new());
    }

    /// Asks every replica to stop.
    pub(crate) fn drain(&mut self, id: &JobId, then: Then, grace_ms: u64) {
        let (ordered, now) = (self.next_revision(), self.now);
        let grace = std::time::Duration::from_millis(grace_ms);
        let overdue = now.after(grace).after(self.config.drain_slack);
        let (kind, level) = match &then {
            Then::Recover { failure, .. } if failure.rank.is_some() => ("TaskFailed", EventLevel::Warning),
            Then::Recover { .. } => ("GenerationFailed", EventLevel::Warning),
            Then::Replace { .. } => ("GenerationTurnedAway", EventLevel::Warning),
            Then::Restart | Then::Fail { .. } | Then::Stop { .. } => ("JobStopping", EventLevel::Info),
        };
        let message = then.reason().to_owned();
        self.edit(id, |run| {
            pauses::count_run(run, now);
            if !matches!(then, Then::Recover { .. } | Then::Replace { .. }) {
                run.quick_ends = 0;
            }
            if let Some(failure) = then.failure().cloned() {
                run.last_failure = Some(FailedGeneration { generation: run.generation, failure });
            }
            let (overdue_told, given_up) = (false, Vec::new());
            run.phase =
                Phase::Draining(Draining { then, grace_ms, ordered, overdue, overdue_told, given_up });
        });
        self.touch_gang(id);
        self.tell_job(level, kind, id, message);
    }

    pub(crate) fn edit_drain(&mut self, id: &JobId, edit: impl FnOnce(&mut Draining)) {
        self.edit(id, |run| {
            if let Phase::Draining(draining) = &mut run.phase {
                edit(draining);
            }
        });
    }

    fn drained(&mut self, id: &JobId) {
        let Phase::Draining(draining) = self.job(id).run.phase.clone() else { return };
        let cause = match &draining.then {
            Then::Recover { failure, .. } => Some(self.root_cause(self.job(id), failure, &draining.given_up)),
            _ => None,
        };
        // What was stopped when only its files were still on their way has succeeded, unless it would start over.
        let job = self.job(id);
        let mut members = self.members(job).into_iter();
        let has_done_its_work = !job.spec.restart.after_success
            && members.all(|m| m.has_done_its_work(m.placement.task_count(&job.spec)));
        self.end_generation(id, Some(&draining));
        match draining.then {
            Then::Recover { failure, avoid } => self.recover(id, cause.unwrap_or(failure), avoid),
            Then::Replace { reason, avoid, explanation } => {
                let failure = blame::infrastructure(&self.clock(), avoid.first(), reason);
                self.replace(id, Failure { explanation, ..failure }, avoid);
            }
            Then::Restart => self.requeue(id, 0, "starts again as a user asked", Vec::new()),
            Then::Fail { reason, .. } => self.fail(id, reason),
            Then::Stop { .. } if has_done_its_work => {
                let message = "every task exited with 0, before it was stopped";
                self.finish(id, Phase::Succeeded, EventLevel::Info, "JobSucceeded", message);
            }
            Then::Stop { reason } => {
                let phase = Phase::Stopped { reason: reason.clone() };
                self.finish(id, phase, EventLevel::Info, "JobStopped", &reason);
            }
        }
    }

    /// Why the generation ended, now that all is known that will be: see `blame::first_failure`.
    fn root_cause(&self, job: &Job, first: &Failure, given_up: &[NodeRank]) -> Failure {
        let members = self.members(job);
        if first.class == FailureClass::Infrastructure {
            return blame::told_again(job, &members, &self.clock(), first);
        }
        let found = blame::first_failure(job, &members, &self.clock()).unwrap_or_else(|| first.clone());
        let gone = members.iter().find(|m| given_up.contains(&m.placement.node_rank));
        match gone {
            Some(member) if found.class == FailureClass::Application => {
                let node = &member.placement.node;
                let how = if member.state == NodeState::Lost { "was lost" } else { "could not be reached" };
                let message = format!("node {node} {how} when {}", found.message);
                blame::infrastructure(&self.clock(), Some(node), message)
            }
            _ => blame::finally(job, found),
        }
    }

    /// Charges the failure, unless it is nobody's fault; the next generation, or the end.
    fn recover(&mut self, id: &JobId, failure: Failure, mut avoid: Vec<NodeId>) {
        if blame::is_turned_away(&failure) {
            avoid.extend(failure.node.clone());
            return self.replace(id, failure, avoid);
        }
        self.edit(id, |run| (run.refusals, run.unanswered_pulls) = (0, 0));
        self.charge(id, failure, avoid);
    }

    fn charge(&mut self, id: &JobId, failure: Failure, avoid: Vec<NodeId>) {
        let RestartPolicy { infrastructure, application, delay, after_success: _ } =
            self.job(id).spec.restart;
        let run = &self.job(id).run;
        let (charged, budget, class) = match failure.class {
            FailureClass::Infrastructure => (run.restarts_infrastructure, infrastructure, "infrastructure"),
            FailureClass::Application => (run.restarts_application, application, "application"),
        };
        let message = failure.message.clone();
        let generations = run.generation.0;
        let is_application = failure.class == FailureClass::Application;
        self.edit(id, |run| {
            run.last_failure = Some(FailedGeneration { generation: run.generation, failure });
        });
        if budget.is_some_and(|budget| charged >= budget) {
            let spent = match charged {
                0 => format!("no restart for {class} causes is allowed (see restart_policy)"),
                n => format!(
                    "{n} {} for {class} causes are used up after {generations} generations",
                    crate::place::plural(n as usize, "restart")
                ),
            };
            return self.fail(id, format!("{message}; {spent}"));
        }
        self.edit(id, |run| {
            let counter =
                if is_application { &mut run.restarts_application } else { &mut run.restarts_infrastructure };
            *counter = counter.saturating_add(1);
        });
        let limit = budget.map_or(String::new(), |budget| format!(" of {budget}"));
        let told = format!("restart {}{limit} for {class} causes: {message}", charged.saturating_add(1));
        self.tell_job(EventLevel::Warning, "JobRestarting", id, told);
        let pause_ms = if budget.is_none() { pauses::after_failure(&self.job(id).run) } else { 0 };
        self.requeue(id, millis(delay).max(pause_ms), "restarts after a failure", avoid);
    }

    /// Another placement for one that was turned away: free for a few times, with growing pauses.
    fn replace(&mut self, id: &JobId, failure: Failure, avoid: Vec<NodeId>) {
        /// The first pause; it doubles up to half a minute.
        const PAUSE_MS: u64 = 500;
        let refusals = self.job(id).run.refusals;
        if self.job(id).run.started.is_none() && blame::is_registry_away(&failure) {
            return self.pull_again(id, failure, avoid);
        }
        if refusals >= FREE_PLACEMENTS {
            return self.charge(id, failure, avoid);
        }
        self.edit(id, |run| run.refusals += 1);
        self.requeue(id, PAUSE_MS << refusals.min(6), &failure.message, avoid);
    }

    /// A registry that has never answered is more likely misspelt than away: a few tries, charged to no budget.
    fn pull_again(&mut self, id: &JobId, failure: Failure, avoid: Vec<NodeId>) {
        /// Half a minute in all.
        const PAUSES_MS: [u64; 3] = [1_000, 5_000, 25_000];
        let unanswered = self.job(id).run.unanswered_pulls;
        let Some(pause) = PAUSES_MS.get(unanswered as usize) else {
            let reason = format!("{}; tried {} times", failure.message, unanswered + 1);
            self.edit(id, |run| {
                run.last_failure = Some(FailedGeneration { generation: run.generation, failure });
            });
            return self.fail(id, reason);
        };
        self.edit(id, |run| run.unanswered_pulls += 1);
        self.requeue(id, *pause, &failure.message, avoid);
    }

    fn requeue(&mut self, id: &JobId, delay_ms: u64, reason: &str, avoid: Vec<NodeId>) {
        let not_before = (delay_ms > 0).then(|| self.now.after(std::time::Duration::from_millis(delay_ms)));
        let queued = Queued { reason: reason.to_owned(), not_before, after: Vec::new(), avoid };
        self.edit(id, |run| run.phase = Phase::Queued(queued));
    }

    fn fail(&mut self, id: &JobId, reason: String) {
        self.finish(id, Phase::Failed { reason: reason.clone() }, EventLevel::Warning, "JobFailed", &reason);
    }

    pub(crate) fn finish(&mut self, id: &JobId, phase: Phase, level: EventLevel, kind: &str, message: &str) {
        let now = self.now;
        self.edit(id, |run| {
            run.phase = phase;
            run.finished = Some(now);
        });
        self.tell_job(level, kind, id, message.to_owned());
        self.prune_checkpoints(id);
    }

    /// The gang is over: its tasks' ends are kept, devices that may still be in use stay held, and
    /// nothing of the generation is accepted any more. The caller sets the next phase.
    fn end_generation(&mut self, id: &JobId, draining: Option<&Draining>) {
        let job = self.job(id).clone();
        let members = self.members(&job);
        let mut tasks: Vec<ObservedTask> =
            members.iter().filter_map(|m| m.observed).flat_map(|o| o.tasks.clone()).collect();
        tasks.sort_by_key(|task| task.rank);
        let unended = members.iter().filter(|m| draining.is_some_and(|d| !m.has_ended(d.ordered)));
        let ghosts: Vec<(NodeId, NodeRank, Vec<DeviceId>)> = unended
            .map(|m| (m.placement.node.clone(), m.placement.node_rank, m.placement.devices.clone()))
            .collect();
        for (node, node_rank, devices) in ghosts {
            self.haunt(
                &node,
                ReplicaKey { job: id.clone(), generation: job.run.generation, node_rank },
                devices,
            );
        }
        self.touch_gang(id);
        self.edit(id, |run| {
            if let Some(gang) = &mut run.gang {
                gang.tasks = tasks;
            }
        });
        self.make(Change::GenerationEnded { job: id.clone(), generation: job.run.generation });
    }

    fn haunt(&mut self, node: &NodeId, key: ReplicaKey, devices: Vec<DeviceId>) {
        let Some(record) = self.state.nodes.get(node) else { return };
        let mut ghosts = record.ghosts.clone();
        ghosts.push(Ghost { key, devices, dismissed: self.next_revision() });
        self.make(Change::NodeGhosts { node: node.clone(), ghosts });
    }

    /// True while work of this generation is accepted.
    pub(crate) fn check_current(&self, id: &JobId, generation: Generation) -> Result<&Job, crate::Denied> {
        let job = self.find(id)?;
        if is_current(job, generation) {
            return Ok(job);
        }
        Err(crate::Denied::StaleGeneration { job: id.clone(), generation })
    }
}

/// True while work of this generation is accepted: until its gang is over, draining included.
pub(crate) fn is_current(job: &Job, generation: Generation) -> bool {
    job.run.phase.has_gang() && job.run.generation == generation
}

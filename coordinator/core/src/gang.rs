//! A placed gang as its nodes report it, and what follows: the pure judgement of one job.
//!
//! Nothing is judged on one witness's silence: a node that is suspect or unknown keeps its gang
//! where it is; only a task's own end, an agent's own word, a lease or a deadline moves it.

use std::time::Duration;

use convoke_model::{
    NodeId, NodeRank, NodeState, ObservedReplica, Rank, Rendezvous, ReplicaPhase, ReplicaPlacement, Revision,
    TaskExit, TaskPhase, Timestamp, millis,
};

use crate::blame;
use crate::draft::Draft;
use crate::rendezvous::{meets, rendezvous};
use crate::session::Sessions;
use crate::{Config, Draining, Job, Phase, Release, Running, Stage, Starting, State, Then};

/// One replica of the current generation.
pub(crate) struct Member<'a> {
    pub(crate) placement: &'a ReplicaPlacement,
    pub(crate) state: NodeState,
    pub(crate) suspect: bool,
    /// Its node's last sign of life.
    pub(crate) heard: Timestamp,
    /// The node's last report of it.
    pub(crate) observed: Option<&'a ObservedReplica>,
    /// What the node had applied when it reported last.
    pub(crate) applied: Option<Revision>,
}

/// What follows for the job.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    Release(Rendezvous),
    AllRun,
    Succeed,
    Drain { then: Then, grace_ms: u64 },
    GiveUp(Vec<NodeRank>),
    TellOverdue(Vec<NodeId>),
    Drained,
}

/// Times that a judgement depends on.
pub(crate) struct Clock {
    pub(crate) now: Timestamp,
    /// Before it, no deadline that depends on agents has passed.
    pub(crate) window_end: Timestamp,
    pub(crate) fence_margin: Duration,
}

impl Clock {
    fn is_past(&self, deadline: Timestamp) -> bool {
        self.now >= deadline.max(self.window_end)
    }
}

/// The replicas of the job's gang, while it has one.
pub(crate) fn members<'a>(
    config: &Config,
    sessions: &Sessions,
    state: &'a State,
    job: &'a Job,
    now: Timestamp,
) -> Vec<Member<'a>> {
    let gang = job.run.gang.iter().filter(|_| job.run.phase.has_gang());
    let member = |placement: &'a ReplicaPlacement| {
        let node = state.nodes.get(&placement.node);
        let wanted = |o: &&ObservedReplica| {
            o.key.job == job.id
                && o.key.generation == job.run.generation
                && o.key.node_rank == placement.node_rank
        };
        Member {
            placement,
            state: node.map_or(NodeState::Lost, |node| sessions.state(config, node, now)),
            heard: sessions.last_heard(&placement.node),
            suspect: node.is_some_and(|node| sessions.is_suspect(node)),
            observed: node.and_then(|node| node.observed.replicas.iter().find(wanted)),
            applied: node.and_then(|node| node.observed.applied).map(|(_, revision)| revision),
        }
    };
    gang.flat_map(|gang| &gang.placement.replicas).map(member).collect()
}

impl Draft<'_> {
    pub(crate) fn members<'a>(&'a self, job: &'a Job) -> Vec<Member<'a>> {
        members(self.config, self.sessions, &self.state, job, self.now)
    }
}

impl Member<'_> {
    pub(crate) fn phase(&self) -> Option<&ReplicaPhase> {
        self.observed.map(|o| &o.phase)
    }

    pub(crate) fn exits(&self) -> impl Iterator<Item = (Rank, &TaskExit)> {
        self.observed.iter().flat_map(|o| &o.tasks).filter_map(|task| match &task.phase {
            TaskPhase::Exited(exit) => Some((task.rank, exit)),
            TaskPhase::Waiting | TaskPhase::Running { .. } => None,
        })
    }

    /// True once no process of it is left, by its node's own word.
    pub(crate) fn has_ended(&self, ordered: Revision) -> bool {
        match self.phase() {
            Some(phase) => matches!(phase, ReplicaPhase::Ended | ReplicaPhase::Refused { .. }),
            None => self.applied.is_some_and(|applied| applied >= ordered),
        }
    }

    fn has_run_out(&self, tasks: u32) -> bool {
        self.phase() == Some(&ReplicaPhase::Ended)
            && self.exits().filter(|(_, exit)| exit.status.is_success()).count() >= tasks as usize
    }

    /// True if it would have run out without being stopped.
    pub(crate) fn has_done_its_work(&self, tasks: u32) -> bool {
        self.has_run_out(tasks) && self.exits().all(|(_, exit)| !exit.stopped)
    }

    fn is_ready(&self) -> bool {
        self.state == NodeState::Ready && matches!(self.phase(), Some(ReplicaPhase::Ready { .. }))
    }

    fn all_started(&self, tasks: u32) -> bool {
        let started = |o: &&ObservedReplica| {
            let count = o.tasks.iter().filter(|t| t.phase != TaskPhase::Waiting).count();
            matches!(o.phase, ReplicaPhase::Started | ReplicaPhase::Ended) && count >= tasks as usize
        };
        self.observed.as_ref().is_some_and(started)
    }
}

/// What follows now; `None` is nothing, until something else happens.
pub(crate) fn judge(job: &Job, members: &[Member<'_>], clock: &Clock) -> Option<Verdict> {
    match &job.run.phase {
        Phase::Queued(_) | Phase::Succeeded | Phase::Failed { .. } | Phase::Stopped { .. } => None,
        Phase::Starting(starting) => match &starting.stage {
            Stage::Preparing => judge_preparing(job, members, clock, starting),
            Stage::Released(release) => judge_released(job, members, clock, starting, release),
        },
        Phase::Running(running) => judge_running(job, members, clock, running),
        Phase::Draining(draining) => judge_draining(job, members, clock, draining),
    }
}

fn judge_preparing(job: &Job, members: &[Member<'_>], clock: &Clock, starting: &Starting) -> Option<Verdict> {
    if let Some(verdict) = refusal(job, members, clock).or_else(|| loss(job, members, clock)) {
        return Some(verdict);
    }
    if let Some(m) = members.iter().find(|m| m.phase() == Some(&ReplicaPhase::Ended)) {
        let message = format!("node {} ended its replica before it was started", m.placement.node);
        return Some(recover(job, clock, Some(&m.placement.node), message));
    }
    if members.iter().all(Member::is_ready) {
        if let Some(reason) = different_images(job, members) {
            let grace_ms = millis(job.spec.failure_grace);
            return Some(Verdict::Drain { then: Then::Fail { reason, failure: None }, grace_ms });
        }
        return Some(match rendezvous(job, members) {
            Ok(rendezvous) => Verdict::Release(rendezvous),
            Err(node) => replace(job, &node, format!("node {node} reserved fewer ports than it has tasks")),
        });
    }
    clock.is_past(starting.deadline).then(|| too_slow(job, members, clock, "ready", |m| m.is_ready()))
}

fn judge_released(
    job: &Job,
    members: &[Member<'_>],
    clock: &Clock,
    starting: &Starting,
    release: &Release,
) -> Option<Verdict> {
    let ended = task_failure(job, members, clock).or_else(|| vanished(job, members, clock, release.revision));
    if let Some(verdict) =
        ended.or_else(|| refusal(job, members, clock)).or_else(|| loss(job, members, clock))
    {
        return Some(verdict);
    }
    let moved = |m: &&Member<'_>| {
        matches!(m.phase(), Some(ReplicaPhase::Ready { .. })) && !meets(job, m, &release.rendezvous)
    };
    if let Some(m) = members.iter().find(moved) {
        let node = &m.placement.node;
        return Some(replace(
            job,
            node,
            format!("node {node} no longer holds the ports that it had reserved"),
        ));
    }
    if members.iter().all(|m| m.all_started(m.placement.task_count(&job.spec))) {
        return Some(Verdict::AllRun);
    }
    clock.is_past(starting.deadline).then(|| {
        too_slow(job, members, clock, "running", |m| m.all_started(m.placement.task_count(&job.spec)))
    })
}

fn judge_running(job: &Job, members: &[Member<'_>], clock: &Clock, running: &Running) -> Option<Verdict> {
    if members.iter().all(|m| m.has_run_out(m.placement.task_count(&job.spec))) {
        return Some(Verdict::Succeed);
    }
    let ended = task_failure(job, members, clock)
        .or_else(|| vanished(job, members, clock, running.release.revision))
        .or_else(|| refusal(job, members, clock))
        .or_else(|| loss(job, members, clock));
    if ended.is_some() {
        return ended;
    }
    let limit = time_limit(job, running)?;
    (clock.now >= limit).then(|| {
        let allowed = job.spec.time_limit.unwrap_or_default().as_secs();
        let reason = format!(
            "stopped at its time limit of {allowed} s; raise x-convoke.time_limit to let it run longer"
        );
        Verdict::Drain { then: Then::Fail { reason, failure: None }, grace_ms: millis(job.spec.stop_grace) }
    })
}

/// When a running job reaches its time limit.
pub(crate) fn time_limit(job: &Job, running: &Running) -> Option<Timestamp> {
    let left = millis(job.spec.time_limit?).saturating_sub(job.run.ran_ms);
    Some(Timestamp(running.since.0.saturating_add(left)))
}

fn judge_draining(job: &Job, members: &[Member<'_>], clock: &Clock, draining: &Draining) -> Option<Verdict> {
    let waited_for: Vec<&Member<'_>> = (members.iter())
        .filter(|m| !m.has_ended(draining.ordered) && !draining.given_up.contains(&m.placement.node_rank))
        .collect();
    if waited_for.is_empty() {
        return Some(Verdict::Drained);
    }
    let is_gone = |m: &&&Member<'_>| {
        may_give_up(&draining.then, m.state == NodeState::Lost, m.suspect)
            && fenced(job, m.heard, clock.fence_margin).is_none_or(|end| clock.now >= end)
    };
    let gone: Vec<NodeRank> = waited_for.iter().filter(is_gone).map(|m| m.placement.node_rank).collect();
    if !gone.is_empty() {
        return Some(Verdict::GiveUp(gone));
    }
    (!draining.overdue_told && clock.is_past(draining.overdue))
        .then(|| Verdict::TellOverdue(waited_for.iter().map(|m| m.placement.node.clone()).collect()))
}

/// True if a replica's end is not worth waiting for: its node is lost, or is suspect while the
/// gang has failed, which are two witnesses.
pub(crate) fn may_give_up(then: &Then, lost: bool, suspect: bool) -> bool {
    lost || (suspect && matches!(then, Then::Recover { .. }))
}

/// When a node that was last heard at `heard` has certainly ended the tasks of a fenced job.
pub(crate) fn fenced(job: &Job, heard: Timestamp, margin: Duration) -> Option<Timestamp> {
    job.spec.fence.map(|fence| heard.after(fence).after(margin))
}

// === the ways in which a gang fails ===

/// The first task that ended otherwise than with 0.
fn task_failure(job: &Job, members: &[Member<'_>], clock: &Clock) -> Option<Verdict> {
    let failure = blame::first_failure(job, members, clock)?;
    Some(Verdict::Drain {
        then: Then::Recover { failure, avoid: Vec::new() },
        grace_ms: millis(job.spec.failure_grace),
    })
}

/// A replica that its node no longer has, or that ended without an exit of each task.
fn vanished(job: &Job, members: &[Member<'_>], clock: &Clock, released: Revision) -> Option<Verdict> {
    let gone = |m: &&Member<'_>| match m.phase() {
        None => m.applied.is_some_and(|applied| applied >= released),
        Some(ReplicaPhase::Ended) => m.exits().count() < m.placement.task_count(&job.spec) as usize,
        // Its agent has lost the tasks.
        Some(ReplicaPhase::Preparing | ReplicaPhase::Ready { .. }) => {
            matches!(job.run.phase, Phase::Running(_))
        }
        Some(ReplicaPhase::Refused { .. } | ReplicaPhase::Started) => false,
    };
    members.iter().find(gone).map(|m| {
        let node = &m.placement.node;
        let message =
            format!("node {node} no longer has its replica and cannot say how it ended; see its agent's log");
        recover(job, clock, Some(node), message)
    })
}

fn loss(job: &Job, members: &[Member<'_>], clock: &Clock) -> Option<Verdict> {
    let tasks = |m: &Member<'_>| m.placement.task_count(&job.spec);
    let lost = members.iter().find(|m| m.state == NodeState::Lost && !m.has_run_out(tasks(m)))?;
    let node = &lost.placement.node;
    Some(recover(job, clock, Some(node), format!("node {node} was lost; see: convoke nodes")))
}

fn refusal(job: &Job, members: &[Member<'_>], clock: &Clock) -> Option<Verdict> {
    let (retryable, failure) = blame::refusal(members, clock)?;
    let then = if retryable {
        let avoid = failure.node.iter().cloned().collect();
        Then::Replace { reason: failure.message, avoid, explanation: failure.explanation }
    } else {
        Then::Fail { reason: failure.message.clone(), failure: Some(Box::new(failure)) }
    };
    Some(Verdict::Drain { then, grace_ms: millis(job.spec.failure_grace) })
}

/// Two replicas would run different bits under one image name, which is where a gang's strangest
/// failures come from.
fn different_images(job: &Job, members: &[Member<'_>]) -> Option<String> {
    let image = |m: &Member<'_>| match m.phase() {
        Some(ReplicaPhase::Ready { image: Some(image), .. }) => {
            Some((m.placement.node.clone(), image.clone()))
        }
        _ => None,
    };
    let (first, ours) = members.iter().find_map(image)?;
    let (other, theirs) = members.iter().filter_map(image).find(|(_, image)| *image != ours)?;
    let name = job.spec.image.as_deref().unwrap_or_default();
    Some(format!(
        "{name} is {ours} on node {first} and {theirs} on node {other}; pull it anew on both (docker pull {name}), or \
         name the one that you mean by its digest"
    ))
}

fn too_slow(
    job: &Job,
    members: &[Member<'_>],
    clock: &Clock,
    what: &str,
    is_fine: impl Fn(&Member<'_>) -> bool,
) -> Verdict {
    let late: Vec<NodeId> =
        members.iter().filter(|m| !is_fine(m)).map(|m| m.placement.node.clone()).collect();
    let names: Vec<&str> = late.iter().map(NodeId::as_str).collect();
    let message = format!("not {what} in time on {}; see the agents' logs there", names.join(", "));
    let failure = blame::infrastructure(clock, late.first(), message);
    Verdict::Drain { then: Then::Recover { failure, avoid: late }, grace_ms: millis(job.spec.failure_grace) }
}

fn recover(job: &Job, clock: &Clock, node: Option<&NodeId>, message: String) -> Verdict {
    let avoid = node.cloned().into_iter().collect();
    let failure = blame::infrastructure(clock, node, message);
    Verdict::Drain { then: Then::Recover { failure, avoid }, grace_ms: millis(job.spec.failure_grace) }
}

fn replace(job: &Job, node: &NodeId, reason: String) -> Verdict {
    let then = Then::Replace { reason, avoid: vec![node.clone()], explanation: None };
    Verdict::Drain { then, grace_ms: millis(job.spec.failure_grace) }
}

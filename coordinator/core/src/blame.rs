//! Which task's end, or which node's refusal, is a gang's failure, and how it is told.
//!
//! A task's explanation comes a little after its end. So a gang is stopped on the bare exits, and the
//! failure is told again at the end of its drain, when all is known that will be.

use convoke_explain::{Ended, is_consequence};
use convoke_model::{
    ExitStatus, Explanation, Failure, FailureClass, NodeId, Rank, RankLayout, ReplicaPhase, TaskExit,
};

use crate::Job;
use crate::gang::{Clock, Member};

/// A task that failed, and where.
type Failed<'a> = (&'a NodeId, Rank, &'a TaskExit);

const NO_CAUSE: &str = "no rank showed a cause of its own, and this one failed first";
const NO_CAUSE_ADVICE: &str = "look for a node or a network that failed: `convoke nodes` and `convoke events`, then the \
                               last lines of every rank with `convoke logs`";

/// Of the exits seen so far the likeliest cause: a rank that was killed or is unaccounted for goes before one that
/// exited by itself (the survivors of a killed rank do), then one with a cause of its own before one that only lost
/// another, then the earlier exit. Ranks that were asked to stop only followed, unless their own failure came before.
pub(crate) fn first_failure(job: &Job, members: &[Member<'_>], clock: &Clock) -> Option<Failure> {
    let failed: Vec<Failed<'_>> = failed(members).collect();
    let only = |wanted: fn(&TaskExit) -> bool| {
        let found: Vec<Failed<'_>> = failed.iter().copied().filter(|(_, _, exit)| wanted(exit)).collect();
        (!found.is_empty()).then_some(found)
    };
    let killed = only(|exit| !exit.stopped && is_killed(exit.status));
    let likeliest = killed.or_else(|| only(|exit| !only_followed(exit)));
    // Where all were asked to stop, one of them is told.
    let all_followed = likeliest.is_none();
    let likeliest = likeliest.unwrap_or_else(|| failed.clone());
    let ended = likeliest
        .iter()
        .map(|&(_, rank, exit)| Ended { stopped: exit.stopped && !all_followed, ..ended(rank, exit) });
    let ended: Vec<Ended<'_>> = ended.collect();
    let first = convoke_explain::first_failure(&ended)?.rank;
    let first = likeliest.into_iter().find(|(_, rank, _)| *rank == first)?;
    Some(failure(job, first, clock))
}

/// A failure that was judged by a bare exit, with what has become known of it.
pub(crate) fn told_again(job: &Job, members: &[Member<'_>], clock: &Clock, first: &Failure) -> Failure {
    // A failure of a node's is no rank's.
    let same = |(_, rank, exit): &Failed<'_>| {
        first.rank.is_some_and(|first| first == *rank || about(exit) == Some(first))
            && exit.explanation.is_some()
    };
    let known = failed(members).find(same);
    known.map_or_else(|| first.clone(), |exit| Failure { at: first.at, ..failure(job, exit, clock) })
}

/// A gang's failure, now that all is known that will be: if every task only lost another one, that is said.
pub(crate) fn finally(job: &Job, mut failure: Failure) -> Failure {
    let alone = job.run.gang.as_ref().is_none_or(|gang| gang.placement.world_size() < 2);
    if let Some(explanation) = failure.explanation.as_mut().filter(|e| !alone && is_consequence(&e.cause)) {
        explanation.summary = format!("{}; {NO_CAUSE}", explanation.summary);
        explanation.advice = NO_CAUSE_ADVICE.to_owned();
        failure.message = told(job, failure.node.as_ref(), failure.rank, &explanation.summary);
    }
    failure
}

/// True for a failure that another placement cures and that is nobody's fault: a port that was free when it was
/// reserved and is taken after all.
pub(crate) fn is_turned_away(failure: &Failure) -> bool {
    let never_started = failure.exit == Some(ExitStatus::Unknown);
    match failure.explanation.as_ref().map(|e| e.cause.as_str()) {
        Some("RendezvousPortTaken") => true,
        // Of a program that ran it is the program's own choice of port.
        Some("PortTaken") => never_started,
        _ => false,
    }
}

/// True for a refusal because the image's registry cannot be reached.
pub(crate) fn is_registry_away(failure: &Failure) -> bool {
    failure.explanation.as_ref().is_some_and(|e| e.cause == "RegistryUnreachable")
}

/// The refusal that counts, and whether another try may help. One that cannot be cured goes first: trying again
/// would be in vain.
pub(crate) fn refusal(members: &[Member<'_>], clock: &Clock) -> Option<(bool, Failure)> {
    let refused = |m: &Member<'_>| match m.phase() {
        Some(ReplicaPhase::Refused { message, retryable, explanation }) => {
            Some((*retryable, m.placement.node.clone(), message.clone(), explanation.clone()))
        }
        _ => None,
    };
    let all = members.iter().filter_map(refused);
    let first = all.min_by(|a, b| (a.0, &a.1, &a.2).cmp(&(b.0, &b.1, &b.2)));
    first.map(|(retryable, node, message, explanation)| {
        let (class, message) = if retryable {
            // The engine's own words are among the explanation's lines.
            let why = explanation.as_ref().map_or(message.as_str(), |e| &e.summary);
            (FailureClass::Infrastructure, format!("node {node} could not prepare it: {why}"))
        } else {
            let message = format!("node {node} refused it: {message}; correct the job and submit it again");
            (FailureClass::Application, message)
        };
        let (node, at) = (Some(node), clock.now);
        (
            retryable,
            Failure { class, node, rank: None, exit: None, oom_killed: false, message, at, explanation },
        )
    })
}

/// Of a node, or of no task in particular.
pub(crate) fn infrastructure(clock: &Clock, node: Option<&NodeId>, message: String) -> Failure {
    Failure {
        class: FailureClass::Infrastructure,
        node: node.cloned(),
        rank: None,
        exit: None,
        oom_killed: false,
        message,
        at: clock.now,
        explanation: None,
    }
}

fn failed<'a>(members: &'a [Member<'_>]) -> impl Iterator<Item = Failed<'a>> {
    let exits =
        members.iter().flat_map(|m| m.exits().map(move |(rank, exit)| (&m.placement.node, rank, exit)));
    exits.filter(|(_, _, exit)| !exit.status.is_success())
}

fn failure(job: &Job, (node, rank, exit): Failed<'_>, clock: &Clock) -> Failure {
    Failure {
        class: classify(exit),
        node: Some(node.clone()),
        rank: about(exit).or(Some(rank)),
        exit: Some(exit.status).filter(|_| !ended_by_us(exit)),
        oom_killed: exit.oom_killed,
        message: describe(job, node, rank, exit),
        at: clock.now,
        explanation: exit.explanation.clone(),
    }
}

fn ended(rank: Rank, exit: &TaskExit) -> Ended<'_> {
    Ended { rank, at: exit.at, status: exit.status, stopped: exit.stopped, cause: cause(exit) }
}

/// How a task ended that was asked to, after a failure of its own, says nothing of that failure.
fn ended_by_us(exit: &TaskExit) -> bool {
    exit.stopped && matches!(exit.status, ExitStatus::Signal(_)) && !only_followed(exit)
}

fn only_followed(exit: &TaskExit) -> bool {
    ended(Rank(0), exit).only_followed()
}

/// The rank of the task whose failure its end was, where that is known.
fn about(exit: &TaskExit) -> Option<Rank> {
    exit.explanation.as_ref()?.rank
}

fn cause(exit: &TaskExit) -> Option<&str> {
    exit.explanation.as_ref().map(|explanation| explanation.cause.as_str())
}

/// Nobody but us or the host sends SIGKILL: an operator, a reset, out of memory.
fn is_killed(status: ExitStatus) -> bool {
    matches!(status, ExitStatus::Signal(9) | ExitStatus::Unknown)
}

fn classify(exit: &TaskExit) -> FailureClass {
    match cause(exit) {
        _ if only_followed(exit) => FailureClass::Infrastructure,
        // It would need as much again, and fail again.
        Some("OutOfMemory") => FailureClass::Application,
        None if exit.oom_killed => FailureClass::Application,
        Some("RendezvousPortTaken") => FailureClass::Infrastructure,
        _ if is_killed(exit.status) => FailureClass::Infrastructure,
        _ => FailureClass::Application,
    }
}

fn describe(job: &Job, node: &NodeId, rank: Rank, exit: &TaskExit) -> String {
    if let Some(Explanation { summary, rank: of, .. }) = exit.explanation.as_deref() {
        return told(job, Some(node), of.or(Some(rank)), summary);
    }
    // Which of a task's ranks failed, only its explanation knows.
    let who = match ranks_of(job, rank) {
        1 => format!("rank {rank}"),
        n => format!("ranks {rank}-{}", rank.0.saturating_add(n - 1)),
    };
    format!("{who} on {node} {}; see: convoke logs {} --rank {rank}", how(exit), job.spec.name)
}

fn told(job: &Job, node: Option<&NodeId>, rank: Option<Rank>, summary: &str) -> String {
    let node = node.map_or(String::new(), |node| format!(" on {node}"));
    let rank = rank.unwrap_or(Rank(0));
    format!("rank {rank}{node}: {summary}; see: convoke logs {} --rank {rank}", job.spec.name)
}

/// How many ranks the task has whose first is `rank`.
fn ranks_of(job: &Job, rank: Rank) -> u32 {
    let replica = job.run.gang.as_ref().and_then(|gang| gang.placement.replica_of(rank));
    match job.spec.layout {
        RankLayout::PerGpu => 1,
        RankLayout::PerNode => replica.map_or(1, |replica| replica.local_world),
    }
}

fn how(exit: &TaskExit) -> String {
    let how = match exit.status {
        ExitStatus::Code(code) => format!("exited with code {code}"),
        ExitStatus::Signal(9) if exit.message.is_none() => {
            "was killed by signal 9 (out of memory?)".to_owned()
        }
        ExitStatus::Signal(9) => "was killed by signal 9".to_owned(),
        ExitStatus::Signal(signal) => format!("was ended by signal {signal}"),
        ExitStatus::Unknown => "ended and left no exit record".to_owned(),
    };
    match &exit.message {
        Some(message) => format!("{how} ({message})"),
        None => how,
    }
}

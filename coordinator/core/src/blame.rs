//! Which task's end, or which node's refusal, is a gang's failure, and how it is told.
//!
//! A task's explanation comes a little after its end. So a gang is stopped on the bare exits, and the
//! failure is told again at the end of its drain, when all is known that will be.

use convoke_explain::Ended;
use convoke_model::{ExitStatus, Explanation, Failure, FailureClass, NodeId, Rank, ReplicaPhase, TaskExit};

use crate::Job;
use crate::gang::{Clock, Member};

/// A task that failed, and where.
type Failed<'a> = (&'a NodeId, Rank, &'a TaskExit);

/// Of the exits seen so far the likeliest cause: a rank that was killed or is unaccounted for goes before one that
/// exited by itself (the survivors of a killed rank do), then one with a cause of its own before one that only lost
/// another, then the earlier exit. Ranks that were asked to stop only followed.
pub(crate) fn first_failure(job: &Job, members: &[Member<'_>], clock: &Clock) -> Option<Failure> {
    let failed: Vec<Failed<'_>> = failed(members).collect();
    let only = |wanted: fn(&TaskExit) -> bool| {
        let found: Vec<Failed<'_>> = failed.iter().copied().filter(|(_, _, exit)| wanted(exit)).collect();
        (!found.is_empty()).then_some(found)
    };
    let killed = only(|exit| !exit.stopped && is_killed(exit.status));
    let likeliest = killed.or_else(|| only(|exit| !exit.stopped)).unwrap_or_else(|| failed.clone());
    let ended = likeliest.iter().map(|&(_, rank, exit)| Ended {
        rank,
        at: exit.at,
        status: exit.status,
        stopped: false, // They are all or none.
        cause: cause(exit),
    });
    let ended: Vec<Ended<'_>> = ended.collect();
    let first = convoke_explain::first_failure(&ended)?.rank;
    let first = likeliest.into_iter().find(|(_, rank, _)| *rank == first)?;
    Some(failure(job, first, clock))
}

/// A failure that was judged by a bare exit, with what has become known of it.
pub(crate) fn told_again(job: &Job, members: &[Member<'_>], clock: &Clock, first: &Failure) -> Failure {
    let same = |(_, rank, exit): &Failed<'_>| first.rank == Some(*rank) && exit.explanation.is_some();
    let known = failed(members).find(same);
    known.map_or_else(|| first.clone(), |exit| Failure { at: first.at, ..failure(job, exit, clock) })
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
            (FailureClass::Infrastructure, format!("node {node} could not prepare it: {message}"))
        } else {
            let message = format!("node {node} refused it: {message}; correct the job and submit it again");
            (FailureClass::Application, message)
        };
        let (node, at) = (Some(node), clock.now);
        (retryable, Failure { class, node, rank: None, exit: None, message, at, explanation })
    })
}

/// Of a node, or of no task in particular.
pub(crate) fn infrastructure(clock: &Clock, node: Option<&NodeId>, message: String) -> Failure {
    Failure {
        class: FailureClass::Infrastructure,
        node: node.cloned(),
        rank: None,
        exit: None,
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
        rank: Some(rank),
        exit: Some(exit.status),
        message: describe(job, node, rank, exit),
        at: clock.now,
        explanation: exit.explanation.clone(),
    }
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
        _ if exit.stopped => FailureClass::Infrastructure,
        // It would need as much again, and fail again.
        Some("OutOfMemory") => FailureClass::Application,
        None if exit.oom_killed => FailureClass::Application,
        Some("RendezvousPortTaken") => FailureClass::Infrastructure,
        _ if is_killed(exit.status) => FailureClass::Infrastructure,
        _ => FailureClass::Application,
    }
}

fn describe(job: &Job, node: &NodeId, rank: Rank, exit: &TaskExit) -> String {
    let what = match exit.explanation.as_deref() {
        Some(Explanation { summary, .. }) => format!(": {summary}"),
        None => format!(" {}", how(exit)),
    };
    format!("rank {rank} on {node}{what}; see: convoke logs {} --rank {rank}", job.spec.name)
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

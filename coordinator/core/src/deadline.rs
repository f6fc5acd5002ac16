//! When time alone changes something. Each deadline is used up by the tick that meets it: a lease
//! becomes a loss, a timeout a drain, a pause is cleared. So ticking never spins.

use convoke_model::Timestamp;

use crate::gang::{self, Member};
use crate::session::Sessions;
use crate::{Config, Draining, Job, Phase, State};

pub(crate) fn next(config: &Config, sessions: &Sessions, state: &State) -> Option<Timestamp> {
    let nodes = state.nodes.values().filter(|node| node.lost.is_none());
    let leases = nodes.map(|node| sessions.expiry(config, &node.info.id));
    let jobs = state.jobs.values().filter_map(|job| of_job(config, sessions, state, job));
    leases.chain(jobs).min()
}

fn of_job(config: &Config, sessions: &Sessions, state: &State, job: &Job) -> Option<Timestamp> {
    match &job.run.phase {
        Phase::Queued(queued) => queued.not_before,
        Phase::Starting(starting) => Some(starting.deadline.max(sessions.window_end(config))),
        Phase::Running(running) => gang::time_limit(job, running),
        Phase::Draining(draining) => of_drain(config, sessions, state, job, draining),
        Phase::Succeeded | Phase::Failed { .. } | Phase::Stopped { .. } => None,
    }
}

fn of_drain(
    config: &Config,
    sessions: &Sessions,
    state: &State,
    job: &Job,
    draining: &Draining,
) -> Option<Timestamp> {
    let overdue = (!draining.overdue_told).then(|| draining.overdue.max(sessions.window_end(config)));
    let fences =
        gang::members(config, sessions, state, job, Timestamp(0)).into_iter().filter_map(|m: Member<'_>| {
            let lost = state.nodes.get(&m.placement.node).is_none_or(|node| node.lost.is_some());
            let waited_for =
                !m.has_ended(draining.ordered) && !draining.given_up.contains(&m.placement.node_rank);
            let fence = gang::fenced(job, m.heard, config.fence_margin);
            fence.filter(|_| waited_for && gang::may_give_up(&draining.then, lost, m.suspect))
        });
    fences.chain(overdue).min()
}

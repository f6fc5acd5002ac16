//! The order in which the services of one file start.

use std::collections::BTreeSet;

use convoke_compose::awaited;
use convoke_model::JobSpec;

/// What others wait for goes first: fewer jobs are told of a service that is not there yet, and of two that
/// write the same file the later one was started with the earlier one's.
pub(crate) fn in_order(jobs: Vec<JobSpec>) -> Vec<JobSpec> {
    let mut waiting = jobs;
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let services: BTreeSet<String> = waiting.iter().map(|job| job.service.clone()).collect();
        let is_free = |job: &JobSpec| job.container.depends_on.keys().all(|name| !services.contains(name));
        let (free, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(is_free);
        // Those that wait for each other wait in any order.
        let stuck = free.is_empty();
        ordered.extend(free);
        waiting = rest;
        if stuck {
            ordered.append(&mut waiting);
        }
    }
    ordered
}

/// Which of the jobs, which are in order, would run when `job` starts: not those whose success it awaits, nor those
/// that await themselves the success of one that runs.
pub(crate) fn beside<'a>(jobs: &'a [JobSpec], job: &JobSpec) -> Vec<&'a JobSpec> {
    let ended = awaited(jobs, job);
    let mut running: Vec<&JobSpec> = Vec::new();
    for other in jobs.iter().filter(|other| !ended.contains(other.service.as_str())) {
        let awaits = awaited(jobs, other);
        if !running.iter().any(|one| awaits.contains(one.service.as_str())) {
            running.push(other);
        }
    }
    running
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoke_model::{DependsCondition, JobName};

    fn service(name: &str, after: &[(&str, DependsCondition)]) -> JobSpec {
        let mut spec = JobSpec::processes(JobName::new(name).unwrap(), vec!["x".to_owned()]);
        let depends = after.iter().map(|(name, condition)| ((*name).to_owned(), *condition));
        spec.container.depends_on = depends.collect();
        spec
    }

    fn names<'a>(jobs: impl IntoIterator<Item = &'a JobSpec>) -> Vec<&'a str> {
        jobs.into_iter().map(|job| job.service.as_str()).collect()
    }

    #[test]
    fn what_is_waited_for_goes_first_and_a_circle_or_an_absent_service_holds_nobody_up() {
        use DependsCondition::Started;
        let jobs = vec![
            service("a", &[("b", Started), ("gone", Started)]),
            service("b", &[("d", Started)]),
            service("c", &[("c2", Started)]),
            service("c2", &[("c", Started)]),
            service("d", &[]),
        ];
        assert_eq!(names(&in_order(jobs)), ["d", "b", "a", "c", "c2"]);
    }

    #[test]
    fn what_has_ended_by_then_or_waits_still_is_not_beside_it() {
        use DependsCondition::{CompletedSuccessfully, Started};
        let jobs = [
            service("data", &[]),
            service("db", &[("data", CompletedSuccessfully)]),
            service("train", &[("db", Started)]),
            service("board", &[]),
        ];
        assert_eq!(names(beside(&jobs[..1], &jobs[1])), Vec::<&str>::new());
        assert_eq!(names(beside(&jobs[..2], &jobs[2])), ["db"]);
        assert_eq!(names(beside(&jobs[..2], &jobs[3])), ["data"], "what waits for it does not run yet");
    }
}

//! Whose turn it is.

use std::time::Duration;

use convoke_core::*;
use convoke_model::*;

use crate::harness::Harness;
use crate::support::spec;

#[test]
fn jobs_of_one_priority_go_in_order_of_submission() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let jobs: Vec<JobId> = ["x", "c", "b"].iter().map(|name| h.submit(spec(name, 1, 1))).collect();
    let states = |h: &Harness| jobs.iter().map(|job| h.state(job)).collect::<Vec<_>>();
    assert_eq!(states(&h), [JobState::Starting, JobState::Queued, JobState::Queued]);
    h.follow_all();
    h.end_all(&jobs[0], ExitStatus::Code(0));
    assert_eq!(states(&h), [JobState::Succeeded, JobState::Starting, JobState::Queued]);
}

#[test]
fn a_higher_priority_goes_first_but_takes_nothing_from_who_runs() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let first = h.submit(spec("first", 1, 1));
    let low = h.submit(spec("low", 1, 1));
    let high = h.submit(JobSpec { priority: 9, ..spec("high", 1, 1) });
    h.follow_all();
    assert_eq!(h.state(&first), JobState::Running);
    h.end_all(&first, ExitStatus::Code(0));
    assert_eq!((h.state(&low), h.state(&high)), (JobState::Queued, JobState::Starting));
}

#[test]
fn small_jobs_do_not_starve_a_large_one() {
    let mut h = Harness::with_nodes(&[("a", 2), ("b", 2)]);
    let running = h.submit(spec("running", 1, 2));
    let large = h.submit(spec("large", 2, 2));
    let small = h.submit(spec("small", 1, 1));
    assert_eq!((h.state(&large), h.state(&small)), (JobState::Queued, JobState::Queued));
    assert_eq!(h.job(&small).reason, "waits its turn behind job \"large\"");
    h.follow_all();
    h.end_all(&running, ExitStatus::Code(0));
    assert_eq!((h.state(&large), h.state(&small)), (JobState::Starting, JobState::Queued));
}

#[test]
fn a_waiting_job_holds_nobody_up_on_nodes_that_it_cannot_use() {
    let mut h = Harness::with_nodes(&[("a", 1), ("big", 4)]);
    h.submit(spec("running", 1, 3));
    let large = h.submit(spec("large", 1, 4));
    let small = h.submit(spec("small", 1, 1));
    assert_eq!(h.state(&large), JobState::Queued);
    assert_eq!(h.job(&small).replicas[0].placement.node.as_str(), "a");
}

#[test]
fn a_job_that_waits_for_nodes_to_be_added_holds_nobody_up() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let mut event = h.submit_event(spec("huge", 9, 1));
    if let Event::Submit { wait_for_nodes, .. } = &mut event {
        *wait_for_nodes = true;
    }
    h.ok(event);
    let small = h.submit(spec("small", 1, 1));
    assert_eq!(h.state(&small), JobState::Starting);
}

#[test]
fn the_reason_is_told_when_it_changes_and_only_then() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    h.submit(spec("first", 1, 1));
    let job = h.submit(spec("second", 1, 1));
    assert_eq!(h.messages("JobQueued"), ["needs 1 node with 1 free cpu slot; a has 0 free"]);
    h.pass(Duration::from_secs(60));
    h.tick();
    assert_eq!(h.messages("JobQueued").len(), 1);
    h.disconnect("a");
    assert_eq!(h.messages("JobQueued").len(), 2);
    assert!(h.job(&job).reason.ends_with("a is suspect"));
}

#[test]
fn without_nodes_a_job_waits_and_says_so() {
    let mut h = Harness::new();
    let job = h.submit(spec("early", 2, 4));
    assert_eq!(h.job(&job).reason, "needs 2 nodes with 4 free cpu slots; no node is registered");
    h.connect(crate::support::info("a", 4));
    h.connect(crate::support::info("b", 4));
    assert_eq!(h.state(&job), JobState::Starting);
}

//! What users ask for, three ways: done, already so, denied with a named reason.

use std::time::Duration;

use convoke_core::*;
use convoke_model::*;

use crate::harness::{Harness, exit};
use crate::support::{shard, spec};

fn replacing(h: &mut Harness, spec: JobSpec) -> (JobId, Event) {
    let mut event = h.submit_event(spec);
    let Event::Submit { id, replace, .. } = &mut event else { unreachable!() };
    *replace = true;
    (id.clone(), event)
}

#[test]
fn a_repeated_submit_is_the_same_job() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let event = h.submit_event(spec("job", 1, 1));
    let Event::Submit { id, .. } = event.clone() else { unreachable!() };
    h.ok(event.clone());
    assert_eq!(h.ok(event.clone()), Decision::AlreadySo(AlreadySo::Job(id.clone())));
    h.follow_all();
    h.end_all(&id, ExitStatus::Code(0));
    assert_eq!(h.ok(event), Decision::AlreadySo(AlreadySo::Job(id)), "also after its end");
}

#[test]
fn a_key_for_another_spec_is_denied() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let event = h.submit_event(spec("job", 1, 1));
    h.ok(event.clone());
    let Event::Submit { id, key, .. } = event else { unreachable!() };
    let other = Box::new(spec("other", 1, 1));
    let again = Event::Submit { id, key, spec: other, replace: false, wait_for_nodes: false };
    assert_eq!(h.denied(again).reason(), "KEY_REUSED");
}

#[test]
fn a_spec_is_validated_again() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let event = h.submit_event(spec("job", 0, 1));
    assert_eq!(h.denied(event).reason(), "INVALID_SPEC");
    let procs = JobSpec { procs_per_task: Some(u32::MAX), ..spec("job", 1, 1) };
    let event = h.submit_event(procs);
    assert_eq!(h.denied(event).reason(), "INVALID_SPEC");
}

#[test]
fn a_name_is_taken_until_its_job_has_ended() {
    let mut h = Harness::with_nodes(&[("a", 2)]);
    let job = h.submit(spec("job", 1, 1));
    let again = h.submit_event(spec("job", 1, 1));
    let denied = h.denied(again.clone());
    assert_eq!(denied.reason(), "NAME_TAKEN");
    assert!(denied.to_string().contains("--replace"), "{denied}");
    h.follow_all();
    h.end_all(&job, ExitStatus::Code(0));
    h.ok(again);
}

#[test]
fn what_can_never_fit_is_denied_unless_nodes_are_waited_for() {
    let mut h = Harness::with_nodes(&[("a", 2)]);
    let mut event = h.submit_event(spec("job", 1, 3));
    let denied = h.denied(event.clone());
    assert_eq!(denied.reason(), "NEVER_FITS");
    assert!(denied.to_string().contains("needs 1 node with 3 free cpu slots; a has 2"), "{denied}");
    let Event::Submit { wait_for_nodes, .. } = &mut event else { unreachable!() };
    *wait_for_nodes = true;
    h.ok(event);
}

#[test]
fn a_node_that_is_lost_still_counts_for_what_can_fit() {
    let mut h = Harness::with_nodes(&[("a", 2)]);
    h.disconnect("a");
    h.pass(Duration::from_secs(30));
    let job = h.submit(spec("job", 1, 2));
    assert!(h.job(&job).reason.contains("a is lost"), "{}", h.job(&job).reason);
}

#[test]
fn a_replacement_waits_for_the_old_job_and_starts_from_its_last_checkpoint() {
    let mut h = Harness::with_nodes(&[("a", 2)]);
    let old = h.submit(spec("job", 1, 1));
    h.follow_all();
    h.store(&old, 40, shard(0, 1)).unwrap();
    let (new, event) = replacing(&mut h, spec("job", 1, 1));
    h.ok(event);
    assert_eq!((h.state(&old), h.state(&new)), (JobState::Stopping, JobState::Queued));
    assert_eq!(h.job(&new).reason, format!("waits for job {old} to end, which it replaces"));
    h.follow_all();
    assert_eq!((h.state(&old), h.state(&new)), (JobState::Stopped, JobState::Running));
    let from = h.job(&new).resumed_from.expect("the old job had a checkpoint");
    assert_eq!((from.job, from.step), (old.clone(), Step(40)));
    assert_eq!(h.job(&old).reason, format!("replaced by job {new}"));
}

#[test]
fn a_replacement_of_a_waiting_replacement_inherits_from_the_first() {
    let mut h = Harness::with_nodes(&[("a", 2)]);
    let old = h.submit(spec("job", 1, 1));
    h.follow_all();
    h.store(&old, 40, shard(0, 1)).unwrap();
    let (second, event) = replacing(&mut h, spec("job", 1, 1));
    h.ok(event);
    let (third, event) = replacing(&mut h, spec("job", 1, 1));
    h.ok(event);
    assert_eq!(h.state(&second), JobState::Stopped);
    h.follow_all();
    assert_eq!(h.job(&third).resumed_from.map(|c| c.job), Some(old));
}

#[test]
fn a_queued_job_stops_at_once_and_an_ended_one_has_stopped_already() {
    let mut h = Harness::new();
    let job = h.submit(spec("job", 1, 1));
    let stop = Event::Stop { job: job.clone(), grace: None };
    h.ok(stop.clone());
    assert_eq!(h.state(&job), JobState::Stopped);
    assert_eq!(h.ok(stop), Decision::AlreadySo(AlreadySo::Job(job)));
}

#[test]
fn a_stop_takes_the_jobs_grace_or_the_users() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let job = h.submit(spec("job", 1, 1));
    h.follow_all();
    h.ok(Event::Stop { job: job.clone(), grace: None });
    assert_eq!(h.goals("a"), [ReplicaGoal::Stopped { grace_ms: 10_000 }]);
    let shorter = Event::Stop { job: job.clone(), grace: Some(Duration::ZERO) };
    h.ok(shorter.clone());
    assert_eq!(h.goals("a"), [ReplicaGoal::Stopped { grace_ms: 0 }]);
    assert_eq!(h.ok(shorter), Decision::AlreadySo(AlreadySo::Job(job.clone())));
    h.follow_all();
    assert_eq!(h.state(&job), JobState::Stopped);
}

#[test]
fn a_job_that_is_stopped_while_only_its_files_travel_has_succeeded() {
    for (stopped, expected) in [(false, JobState::Succeeded), (true, JobState::Stopped)] {
        let mut h = Harness::with_nodes(&[("a", 2)]);
        let job = h.submit(spec("job", 1, 2));
        h.follow_all();
        let exit = TaskExit { stopped, ..exit(ExitStatus::Code(0), h.now) };
        // Its agent says that both have ended, and not yet that the replica has.
        h.edit_report("a", |report| {
            for task in &mut report.replicas[0].tasks {
                task.phase = TaskPhase::Exited(exit.clone());
            }
        });
        h.ok(Event::Stop { job: job.clone(), grace: None });
        assert_eq!(h.state(&job), JobState::Stopping);
        h.edit_report("a", |report| report.replicas[0].phase = ReplicaPhase::Ended);
        assert_eq!(h.state(&job), expected);
    }
}

#[test]
fn a_stop_overrides_the_restart_after_a_failure() {
    let mut h = Harness::with_nodes(&[("a", 2)]);
    let job = h.submit(spec("job", 1, 2));
    h.follow_all();
    h.end_task(&job, 0, ExitStatus::Signal(9));
    assert_eq!(h.state(&job), JobState::Stopping);
    h.ok(Event::Stop { job: job.clone(), grace: None });
    h.follow_all();
    assert_eq!((h.state(&job), h.job(&job).generation), (JobState::Stopped, Generation(1)));
}

#[test]
fn a_restart_of_a_running_job_is_a_new_generation_that_nothing_is_charged_for() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let job = h.submit(spec("job", 1, 1));
    h.follow_all();
    h.ok(Event::Restart { job: job.clone() });
    h.follow_all();
    let view = h.job(&job);
    assert_eq!((view.state, view.generation), (JobState::Running, Generation(2)));
    assert_eq!((view.restarts_infrastructure, view.restarts_application), (0, 0));
}

#[test]
fn a_restart_of_an_ended_job_keeps_its_id_and_its_checkpoints() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let job = h.submit(spec("job", 1, 1));
    h.follow_all();
    h.store(&job, 7, shard(0, 1)).unwrap();
    h.end_all(&job, ExitStatus::Code(1));
    assert_eq!(h.state(&job), JobState::Failed);
    h.ok(Event::Restart { job: job.clone() });
    let view = h.job(&job);
    assert_eq!((view.state, view.generation), (JobState::Starting, Generation(2)));
    assert_eq!((view.started, view.finished), (None, None), "its run time counts from here");
    assert_eq!(view.resumed_from.map(|c| c.step), Some(Step(7)));
}

#[test]
fn a_restart_of_an_ended_job_whose_name_is_taken_is_denied() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let old = h.submit(spec("job", 1, 1));
    h.ok(Event::Stop { job: old.clone(), grace: None });
    h.follow_all();
    h.submit(spec("job", 1, 1));
    assert_eq!(h.denied(Event::Restart { job: old }).reason(), "NAME_TAKEN");
}

#[test]
fn an_unknown_job_is_denied_by_name() {
    let mut h = Harness::new();
    let denied = h.denied(Event::Stop { job: JobId::new("nobody").unwrap(), grace: None });
    assert_eq!(
        (denied.reason(), denied.to_string().as_str()),
        ("UNKNOWN_JOB", "no job is called \"nobody\"")
    );
}

#[test]
fn jobs_that_have_not_ended_are_bounded() {
    let mut h = Harness::new();
    for i in 0..MAX_ACTIVE_JOBS {
        h.submit(spec(&format!("job-{i}"), 1, 1));
    }
    let event = h.submit_event(spec("one-more", 1, 1));
    assert_eq!(h.denied(event).reason(), "TOO_MANY_JOBS");
}

#[test]
fn ended_jobs_beyond_the_bound_are_forgotten_the_oldest_first() {
    let mut h = Harness::new();
    let first = h.submit(spec("first", 1, 1));
    h.ok(Event::Stop { job: first.clone(), grace: None });
    for _ in 0..MAX_ENDED_JOBS {
        h.now = h.now.after(Duration::from_millis(1));
        let job = h.submit(spec("job", 1, 1));
        h.ok(Event::Stop { job, grace: None });
    }
    assert_eq!(h.core.jobs().len(), MAX_ENDED_JOBS);
    assert_eq!(h.core.job(&first), None);
    assert!(h.effects.contains(&Effect::JobForgotten(first)));
}

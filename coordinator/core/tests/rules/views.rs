//! What readers see.

use convoke_core::*;
use convoke_model::*;

use crate::harness::Harness;
use crate::support::{node_id, spec};

#[test]
fn a_job_is_found_by_id_by_name_and_by_unique_prefix() {
    let mut h = Harness::new();
    let job = h.submit(spec("mnist", 1, 1));
    let other = h.submit(spec("mnist-large", 1, 1));
    assert_eq!(h.core.find_job(job.as_str()), Ok(job.clone()));
    assert_eq!(h.core.find_job("mnist"), Ok(job.clone()), "a whole name goes before a prefix");
    assert_eq!(h.core.find_job("mnist-l"), Ok(other));
    assert_eq!(h.core.find_job("mni").unwrap_err().reason(), "AMBIGUOUS_JOB");
    assert_eq!(h.core.find_job("x").unwrap_err().reason(), "UNKNOWN_JOB");
    assert_eq!(h.core.find_job("").unwrap_err().reason(), "UNKNOWN_JOB");
}

#[test]
fn a_job_is_found_by_its_service_unless_two_projects_have_one_of_that_name() {
    let mut h = Harness::new();
    let service = |name: &str, service: &str| JobSpec { service: service.to_owned(), ..spec(name, 1, 1) };
    let job = h.submit(service("mnist-train", "train"));
    h.submit(service("trainees", "other"));
    assert_eq!(h.core.find_job("train"), Ok(job.clone()), "a service goes before a prefix of a name");
    h.submit(service("cifar-train", "train"));
    assert_eq!(h.core.find_job("train").unwrap_err().reason(), "AMBIGUOUS_JOB");
    assert_eq!(h.core.find_job("mnist-train"), Ok(job));
}

#[test]
fn a_job_that_goes_on_is_meant_before_one_that_has_ended() {
    let mut h = Harness::new();
    let service = |name: &str| JobSpec { service: "train".to_owned(), ..spec(name, 1, 1) };
    let goes_on = h.submit(service("mnist-train"));
    let ended = h.submit(service("cifar-train"));
    assert_eq!(h.core.find_job("train").unwrap_err().reason(), "AMBIGUOUS_JOB");
    h.ok(Event::Stop { job: ended.clone(), grace: None });
    assert_eq!(h.core.find_job("train"), Ok(goes_on.clone()));
    assert_eq!(h.core.find_job("cifar-train"), Ok(ended), "a whole name is what it says");
    h.ok(Event::Stop { job: goes_on, grace: None });
    assert_eq!(h.core.find_job("train").unwrap_err().reason(), "AMBIGUOUS_JOB");
}

#[test]
fn of_several_jobs_of_one_name_the_newest_is_meant() {
    let mut h = Harness::new();
    let old = h.submit(spec("mnist", 1, 1));
    h.ok(Event::Stop { job: old, grace: None });
    let new = h.submit(spec("mnist", 1, 1));
    assert_eq!(h.core.find_job("mnist"), Ok(new.clone()));
    assert_eq!(h.core.find_job("mni"), Ok(new.clone()));
    assert_eq!(h.core.jobs()[0].id, new);
}

#[test]
fn the_ends_of_tasks_are_still_seen_when_the_job_is_over() {
    let mut h = Harness::with_nodes(&[("a", 2)]);
    let job = h.submit(spec("job", 1, 2));
    h.follow_all();
    h.end_task(&job, 1, ExitStatus::Code(3));
    h.follow_all();
    assert_eq!(h.goals("a"), []);
    let view = h.job(&job);
    let TaskPhase::Exited(exit) = &view.replicas[0].tasks[1].phase else { panic!("no exit") };
    assert_eq!(exit.status, ExitStatus::Code(3));
}

#[test]
fn a_node_shows_who_uses_its_devices() {
    let mut h = Harness::with_nodes(&[("a", 2)]);
    let job = h.submit(spec("job", 1, 1));
    let node = h.core.nodes(h.now).remove(0);
    assert_eq!(node.state, NodeState::Ready);
    assert_eq!(node.in_use.len(), 1);
    assert_eq!((&node.in_use[0].job, node.in_use[0].device.as_str()), (&job, "a-cpu-0"));
}

#[test]
fn the_desired_state_is_stamped_and_grows_with_every_change() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let before = h.core.desired(&node_id("a")).unwrap();
    h.submit(spec("job", 1, 1));
    assert!(h.effects.contains(&Effect::DesiredChanged(node_id("a"))));
    let after = h.core.desired(&node_id("a")).unwrap();
    assert_eq!((after.epoch, after.revision), (before.epoch, before.revision.next()));
    assert_eq!(h.core.desired(&node_id("nobody")), None);
}

#[test]
fn a_replay_of_the_ledger_gives_the_same_state() {
    let mut h = Harness::with_nodes(&[("a", 2), ("b", 2)]);
    let job = h.submit(spec("job", 2, 2));
    h.follow_all();
    h.end_task(&job, 0, ExitStatus::Signal(9));
    h.follow_all();
    let mut core = Core::new(Config::default(), State::default());
    for changes in &h.ledger {
        let stored = serde_json::to_string(changes).unwrap();
        core.apply(&serde_json::from_str(&stored).unwrap());
    }
    assert_eq!(core.state(), h.core.state());
    let snapshot = serde_json::to_string(core.state()).unwrap();
    assert_eq!(serde_json::from_str::<State>(&snapshot).unwrap(), *h.core.state());
}

#[test]
fn nodes_that_could_hold_a_job_may_be_busy_but_neither_too_small_nor_kept_out_nor_lost() {
    let mut h = Harness::with_nodes(&[("busy", 2), ("kept-out", 2), ("lost", 2), ("small", 1)]);
    h.submit(spec("other", 3, 2));
    h.follow_all();
    // The window after the start, in which nobody is lost.
    h.pass(h.core.config().reconnect_window);
    let subject = ConstraintSubject::Id;
    let constraint = Constraint { subject, equal: false, value: "kept-out".to_owned() };
    let job = JobSpec { constraints: vec![constraint], ..spec("job", 1, 2) };
    assert_eq!(h.core.could_hold(h.now, &job), Ok(vec![node_id("busy"), node_id("lost")]));
    h.disconnect("lost");
    assert_eq!(h.core.could_hold(h.now, &job).unwrap().len(), 2, "it may be back in a moment");
    h.pass(h.core.config().lease);
    assert_eq!(h.core.could_hold(h.now, &job), Ok(vec![node_id("busy")]));
    assert!(h.core.could_hold(h.now, &JobSpec { replicas: 0, ..job }).is_err());
}

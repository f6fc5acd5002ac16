//! A gang's life: prepared, released, running, ended; and how it fails.

use std::time::Duration;

use convoke_core::*;
use convoke_model::*;

use crate::harness::{Harness, exit, ready};
use crate::support::{node_id, shard, spec};

fn running() -> (Harness, JobId) {
    let mut h = Harness::with_nodes(&[("a", 2), ("b", 2)]);
    let job = h.submit(spec("train", 2, 2));
    h.follow_all();
    assert_eq!(h.state(&job), JobState::Running);
    (h, job)
}

#[test]
fn a_job_goes_from_submission_to_success() {
    let mut h = Harness::with_nodes(&[("a", 2), ("b", 2)]);
    let job = h.submit(spec("train", 2, 2));
    assert_eq!(h.state(&job), JobState::Starting);
    assert_eq!(h.goals("a"), [ReplicaGoal::Prepared]);
    h.follow(&node_id("a"));
    assert_eq!(h.goals("a"), [ReplicaGoal::Prepared], "not before b is ready too");
    h.follow(&node_id("b"));
    let [ReplicaGoal::Running(rendezvous)] = &h.goals("a")[..] else { panic!("not released") };
    assert_eq!((rendezvous.world_size, rendezvous.master_port), (4, 7000));
    let ranks: Vec<u32> = rendezvous.peers.iter().map(|peer| peer.rank.0).collect();
    assert_eq!(ranks, [0, 1, 2, 3]);
    h.follow_all();
    assert_eq!(h.state(&job), JobState::Running);
    h.end_all(&job, ExitStatus::Code(0));
    assert_eq!(h.state(&job), JobState::Succeeded);
    assert_eq!(h.goals("a"), []);
    let told = ["JobSubmitted", "GenerationPlaced", "GenerationReleased", "JobRunning", "JobSucceeded"];
    assert_eq!(h.kinds()[3..], told);
}

#[test]
fn what_is_not_meant_to_end_starts_over_with_a_growing_pause_and_is_charged_for_nothing() {
    let mut h = Harness::with_nodes(&[("a", 2), ("b", 2)]);
    let mut dashboard = spec("board", 2, 1);
    dashboard.restart.after_success = true;
    let job = h.submit(dashboard);
    let mut pauses = Vec::new();
    for generation in 1..=9 {
        h.follow_all();
        assert_eq!((h.state(&job), h.job(&job).generation), (JobState::Running, Generation(generation)));
        h.end_task(&job, 0, ExitStatus::Code(0));
        assert_eq!(h.state(&job), JobState::Running, "the whole gang ends, or goes on");
        h.end_task(&job, 1, ExitStatus::Code(0));
        assert_eq!((h.state(&job), h.goals("a")), (JobState::Queued, vec![]));
        let ended = h.now;
        while h.state(&job) == JobState::Queued {
            h.follow_all();
            h.pass(h.core.next_deadline().expect("it waits").since(h.now));
        }
        pauses.push(millis(h.now.since(ended)));
    }
    assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    h.follow_all();
    h.pass(Duration::from_secs(10));
    h.end_all(&job, ExitStatus::Code(0));
    h.pass(Duration::from_millis(500));
    assert_eq!(h.state(&job), JobState::Starting, "one that ran for a while starts over soon");
    let view = h.job(&job);
    assert_eq!((view.restarts_infrastructure, view.restarts_application), (0, 0));
    h.follow_all();
    h.ok(Event::Stop { job: job.clone(), grace: None });
    h.follow_all();
    assert_eq!(h.state(&job), JobState::Stopped);
}

#[test]
fn an_exit_with_0_of_one_task_leaves_the_others_running() {
    let (mut h, job) = running();
    h.end_task(&job, 1, ExitStatus::Code(0));
    assert_eq!(h.state(&job), JobState::Running);
    assert!(matches!(h.goals("b")[..], [ReplicaGoal::Running(_)]));
}

#[test]
fn an_application_failure_stops_the_gang_and_by_default_ends_the_job() {
    let (mut h, job) = running();
    h.end_task(&job, 2, ExitStatus::Code(3));
    assert_eq!(h.state(&job), JobState::Stopping);
    assert_eq!(h.goals("a"), [ReplicaGoal::Stopped { grace_ms: 2_000 }]);
    h.follow_all();
    let view = h.job(&job);
    assert_eq!(view.state, JobState::Failed);
    assert!(view.reason.contains("rank 2 on b exited with code 3"), "{}", view.reason);
    assert!(view.reason.contains("convoke logs train --rank 2"), "{}", view.reason);
    assert_eq!(view.last_failure.unwrap().failure.class, FailureClass::Application);
}

#[test]
fn a_killed_rank_starts_the_next_generation_from_the_last_complete_checkpoint() {
    let (mut h, job) = running();
    h.store(&job, 300, shard(0, 1)).unwrap();
    h.end_task(&job, 2, ExitStatus::Signal(9));
    h.follow_all();
    let view = h.job(&job);
    assert_eq!((view.state, view.generation), (JobState::Running, Generation(2)));
    assert_eq!(view.resumed_from.map(|c| (c.generation, c.step)), Some((Generation(1), Step(300))));
    assert_eq!((view.restarts_infrastructure, view.restarts_application), (1, 0));
}

#[test]
fn survivors_that_exit_before_the_killed_rank_is_reported_are_not_the_cause() {
    let (mut h, job) = running();
    h.end_task(&job, 0, ExitStatus::Code(1));
    h.end_task(&job, 1, ExitStatus::Code(1));
    h.end_task(&job, 2, ExitStatus::Signal(9));
    h.end_task(&job, 3, ExitStatus::Code(1));
    h.follow_all();
    let view = h.job(&job);
    assert_eq!((view.state, view.generation), (JobState::Running, Generation(2)));
    assert_eq!(view.last_failure.unwrap().failure.rank, Some(Rank(2)));
}

#[test]
fn the_next_generation_waits_until_every_replica_has_ended() {
    let (mut h, job) = running();
    h.end_task(&job, 0, ExitStatus::Signal(9));
    h.follow(&node_id("a"));
    assert_eq!(h.state(&job), JobState::Stopping, "b has not ended");
    h.follow(&node_id("b"));
    assert_eq!((h.state(&job), h.job(&job).generation), (JobState::Starting, Generation(2)));
}

#[test]
fn the_budget_for_infrastructure_causes_runs_out() {
    let (mut h, job) = running();
    for _ in 0..3 {
        h.end_task(&job, 0, ExitStatus::Signal(9));
        h.follow_all();
        assert_eq!(h.state(&job), JobState::Running);
    }
    h.end_task(&job, 0, ExitStatus::Signal(9));
    h.follow_all();
    assert_eq!(h.state(&job), JobState::Failed);
    assert!(h.job(&job).reason.contains("3 restarts for infrastructure causes are used up"));
}

#[test]
fn a_restart_delay_is_waited_out() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let mut slow = spec("slow", 1, 1);
    slow.restart.delay = Duration::from_secs(30);
    let job = h.submit(slow);
    h.follow_all();
    h.end_task(&job, 0, ExitStatus::Unknown);
    h.follow_all();
    assert_eq!(h.state(&job), JobState::Queued);
    h.pass(Duration::from_secs(29));
    assert_eq!(h.state(&job), JobState::Queued);
    h.pass(Duration::from_secs(1));
    assert_eq!(h.state(&job), JobState::Starting);
}

#[test]
fn failures_without_a_budget_are_followed_by_a_growing_pause_while_they_come_at_once() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let mut failing = spec("failing", 1, 1);
    failing.restart.application = None;
    let job = h.submit(failing);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        h.follow_all();
        h.end_task(&job, 0, ExitStatus::Code(1));
        h.follow_all_stopping();
        let ended = h.now;
        while h.state(&job) == JobState::Queued {
            h.pass(h.core.next_deadline().expect("it waits").since(h.now));
        }
        pauses.push(millis(h.now.since(ended)));
    }
    assert_eq!(pauses, [0, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000]);
    h.follow_all();
    h.pass(Duration::from_secs(10));
    h.end_task(&job, 0, ExitStatus::Code(1));
    h.follow_all_stopping();
    assert_eq!(h.state(&job), JobState::Starting, "one that ran for a while starts again at once");
    assert_eq!(h.job(&job).restarts_application, 10);
}

#[test]
fn a_retryable_refusal_means_another_node_and_is_not_charged() {
    let mut h = Harness::with_nodes(&[("a", 1), ("b", 1)]);
    let job = h.submit(spec("one", 1, 1));
    assert_eq!(h.job(&job).replicas[0].placement.node, node_id("a"));
    refuse(&mut h, "a", true);
    h.follow_all();
    h.pass(Duration::from_secs(1));
    let view = h.job(&job);
    assert_eq!((view.state, view.generation), (JobState::Starting, Generation(2)));
    assert_eq!(view.replicas[0].placement.node, node_id("b"));
    assert_eq!(view.restarts_infrastructure, 0);
}

#[test]
fn refusals_without_end_are_charged_and_end_the_job() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let job = h.submit(spec("one", 1, 1));
    for _ in 0..FREE_PLACEMENTS + 4 {
        assert_eq!(h.state(&job), JobState::Starting);
        refuse(&mut h, "a", true);
        h.follow_all_stopping();
        h.pass(Duration::from_secs(40));
    }
    assert_eq!(h.state(&job), JobState::Failed);
    assert!(h.job(&job).reason.contains("no port free"), "{}", h.job(&job).reason);
}

#[test]
fn a_final_refusal_fails_the_job_and_names_the_node() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let job = h.submit(spec("one", 1, 1));
    refuse(&mut h, "a", false);
    let view = h.job(&job);
    assert_eq!(view.state, JobState::Failed);
    assert!(view.reason.contains("node a refused it: no port free"), "{}", view.reason);
}

fn refuse(h: &mut Harness, name: &str, retryable: bool) {
    let desired = h.core.desired(&node_id(name)).unwrap();
    let key = desired.replicas[0].key();
    h.edit_report(name, |report| {
        let phase =
            ReplicaPhase::Refused { message: "no port free".to_owned(), retryable, explanation: None };
        report.replicas =
            vec![ObservedReplica { key, phase, tasks: Vec::new(), progress: None, conditions: Vec::new() }];
    });
}

#[test]
fn a_gang_that_is_not_ready_in_time_is_placed_anew() {
    let mut h = Harness::with_nodes(&[("a", 1), ("b", 1)]);
    let job = h.submit(spec("two", 2, 1));
    h.follow(&node_id("a"));
    h.pass(Config::default().prepare_timeout);
    assert_eq!(h.state(&job), JobState::Stopping);
    assert!(h.job(&job).reason.contains("not ready in time on b"), "{}", h.job(&job).reason);
    h.follow_all();
    assert_eq!((h.state(&job), h.job(&job).generation), (JobState::Running, Generation(2)));
}

#[test]
fn a_preparation_that_moves_is_not_too_slow_and_one_that_stands_still_is() {
    let mut h = Harness::with_nodes(&[("a", 1), ("b", 1)]);
    let job = h.submit(spec("two", 2, 1));
    h.follow(&node_id("a"));
    let key = ReplicaKey { job: job.clone(), generation: Generation(1), node_rank: NodeRank(1) };
    let almost = Config::default().prepare_timeout.mul_f32(0.9);
    for done in 1..5 {
        h.pass(almost);
        let progress = Some(Progress { what: "pulls the image".to_owned(), done, total: 9 });
        let (phase, tasks) = (ReplicaPhase::Preparing, Vec::new());
        let replica = ObservedReplica { key: key.clone(), phase, tasks, progress, conditions: Vec::new() };
        h.edit_report("b", |report| report.replicas = vec![replica]);
        assert_eq!(h.state(&job), JobState::Starting);
        assert_eq!(h.job(&job).replicas[1].progress.as_ref().map(|p| p.done), Some(done));
    }
    h.pass(Config::default().prepare_timeout);
    assert_eq!(h.state(&job), JobState::Stopping);
}

#[test]
fn replicas_that_would_run_different_images_under_one_name_are_not_started() {
    let mut h = Harness::with_nodes(&[("a", 1), ("b", 1)]);
    let job = h.submit(spec("two", 2, 1));
    for node in ["a", "b"] {
        let key = h.core.desired(&node_id(node)).unwrap().replicas[0].key();
        let mut phase = ready(1);
        if let ReplicaPhase::Ready { image, .. } = &mut phase {
            *image = Some(format!("sha256:{node}"));
        }
        let replica =
            ObservedReplica { key, phase, tasks: Vec::new(), progress: None, conditions: Vec::new() };
        h.edit_report(node, |report| report.replicas = vec![replica]);
    }
    assert_eq!(h.state(&job), JobState::Stopping);
    let reason = h.job(&job).reason;
    assert!(reason.contains("sha256:a on node a and sha256:b on node b"), "{reason}");
}

#[test]
fn a_replica_that_lost_its_ports_before_the_start_is_not_charged() {
    let mut h = Harness::with_nodes(&[("a", 1), ("b", 1)]);
    let job = h.submit(spec("two", 2, 1));
    h.follow(&node_id("a"));
    h.follow(&node_id("b"));
    h.edit_report("b", |report| {
        let ReplicaPhase::Ready { task_ports, .. } = &mut report.replicas[0].phase else { panic!() };
        task_ports[0] = 9999;
    });
    assert_eq!(h.state(&job), JobState::Stopping);
    h.follow_all();
    h.pass(Duration::from_secs(1));
    h.follow_all();
    let view = h.job(&job);
    assert_eq!((view.state, view.restarts_infrastructure), (JobState::Running, 0));
}

#[test]
fn a_ready_report_with_too_few_ports_is_turned_away() {
    let mut h = Harness::with_nodes(&[("a", 2)]);
    let job = h.submit(spec("one", 1, 2));
    let key = h.core.desired(&node_id("a")).unwrap().replicas[0].key();
    h.edit_report("a", |report| {
        report.replicas = vec![ObservedReplica {
            key,
            phase: ready(1),
            tasks: Vec::new(),
            progress: None,
            conditions: Vec::new(),
        }];
    });
    assert_eq!(h.state(&job), JobState::Stopping);
    assert!(h.job(&job).reason.contains("fewer ports"), "{}", h.job(&job).reason);
}

#[test]
fn a_replica_that_its_node_no_longer_knows_fails_the_generation() {
    let (mut h, job) = running();
    h.edit_report("b", |report| report.replicas.clear());
    assert_eq!(h.state(&job), JobState::Stopping);
    assert!(h.job(&job).reason.contains("node b no longer has its replica"), "{}", h.job(&job).reason);
}

#[test]
fn reports_of_an_older_generation_are_ignored() {
    let (mut h, job) = running();
    let old = h.reports[&node_id("b")].replicas[0].clone();
    h.end_task(&job, 0, ExitStatus::Signal(9));
    h.follow_all();
    assert_eq!((h.state(&job), h.job(&job).generation), (JobState::Running, Generation(2)));
    h.edit_report("b", |report| {
        let tasks = old.tasks.iter().cloned();
        let failed = |t: ObservedTask| ObservedTask {
            phase: TaskPhase::Exited(exit(ExitStatus::Code(1), Timestamp(1))),
            ..t
        };
        report.replicas.push(ObservedReplica { tasks: tasks.map(failed).collect(), ..old });
    });
    assert_eq!(h.state(&job), JobState::Running);
}

#[test]
fn a_job_is_stopped_and_failed_at_its_time_limit() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let mut long = spec("long", 1, 1);
    long.time_limit = Some(Duration::from_secs(60));
    let job = h.submit(long);
    h.follow_all();
    h.pass(Duration::from_secs(40));
    h.end_task(&job, 0, ExitStatus::Signal(9));
    h.follow_all();
    assert_eq!(h.state(&job), JobState::Running, "the second generation has 20 s left");
    h.pass(Duration::from_secs(20));
    h.follow_all();
    assert_eq!(h.state(&job), JobState::Failed);
    assert!(h.job(&job).reason.contains("time limit of 60 s"));
}

#[test]
fn a_drain_that_takes_too_long_is_told_once_and_frees_nothing() {
    let (mut h, job) = running();
    h.ok(Event::Stop { job: job.clone(), grace: None });
    h.pass(Duration::from_secs(600));
    assert_eq!(h.messages("DrainOverdue").len(), 1);
    assert_eq!(h.state(&job), JobState::Stopping);
    let held: usize = h.core.nodes(h.now).iter().map(|node| node.in_use.len()).sum();
    assert_eq!(held, 4);
}

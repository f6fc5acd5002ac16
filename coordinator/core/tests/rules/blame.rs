//! Which failure is a gang's own, once its tasks' ends are explained; and what is charged for it.

use std::time::Duration;

use convoke_core::*;
use convoke_model::*;

use crate::harness::{Harness, exit};
use crate::support::{node_id, spec};

fn explained(cause: &str, summary: &str) -> Option<Box<Explanation>> {
    Some(Box::new(Explanation {
        cause: cause.to_owned(),
        summary: summary.to_owned(),
        evidence: Vec::new(),
        advice: "try another".to_owned(),
        key: None,
    }))
}

/// Rank `r` is on node `r`.
fn running(nodes: &[(&str, u32)]) -> (Harness, JobId) {
    let mut h = Harness::with_nodes(nodes);
    let job = h.submit(spec("train", u32::try_from(nodes.len()).unwrap(), 1));
    h.follow_all();
    assert_eq!(h.state(&job), JobState::Running);
    (h, job)
}

fn failure(h: &Harness, job: &JobId) -> Failure {
    h.job(job).last_failure.unwrap().failure
}

#[test]
fn a_rank_that_only_lost_another_is_not_the_cause_even_if_it_was_heard_first() {
    let (mut h, job) = running(&[("a", 1), ("b", 1), ("c", 1)]);
    let lost = exit(ExitStatus::Code(1), Timestamp(1));
    let raised = exit(ExitStatus::Code(1), Timestamp(2));
    h.end_task_as(&job, 0, lost.clone());
    assert_eq!(failure(&h, &job).rank, Some(Rank(0)), "nothing else is known yet");
    h.end_task_as(&job, 2, raised.clone());
    let explanation = explained("PeerLost", "another rank went away");
    h.end_task_as(&job, 0, TaskExit { explanation, ..lost });
    let explanation = explained("PythonException", "ValueError: no such digit");
    h.end_task_as(&job, 2, TaskExit { explanation: explanation.clone(), ..raised });
    h.follow_all();
    let failure = failure(&h, &job);
    assert_eq!((failure.rank, failure.explanation), (Some(Rank(2)), explanation));
    assert_eq!(failure.message, "rank 2 on c: ValueError: no such digit; see: convoke logs train --rank 2");
    assert!(h.job(&job).reason.contains("ValueError: no such digit"), "{}", h.job(&job).reason);
}

#[test]
fn a_rank_that_ran_out_of_memory_would_do_so_again() {
    let (mut h, job) = running(&[("a", 1), ("b", 1)]);
    let killed = exit(ExitStatus::Signal(9), h.now);
    h.end_task_as(&job, 1, killed.clone());
    assert_eq!(failure(&h, &job).class, FailureClass::Infrastructure, "an operator could have done it");
    let explanation = explained("OutOfMemory", "its memory ran out");
    h.end_task_as(&job, 1, TaskExit { explanation, ..killed });
    h.follow_all();
    let view = h.job(&job);
    assert_eq!((view.state, view.restarts_infrastructure), (JobState::Failed, 0));
    assert!(view.reason.contains("its memory ran out"), "{}", view.reason);
    assert!(view.reason.contains("no restart for application causes"), "{}", view.reason);
}

#[test]
fn a_kill_for_memory_that_the_engine_saw_is_told_without_guessing() {
    let (mut h, job) = running(&[("a", 1), ("b", 1)]);
    let message = Some("OOM-killed (limit 96 MiB)".to_owned());
    let killed = TaskExit { oom_killed: true, message, ..exit(ExitStatus::Signal(9), h.now) };
    h.end_task(&job, 0, ExitStatus::Code(1));
    h.end_task_as(&job, 1, killed);
    h.follow_all();
    let failure = failure(&h, &job);
    assert_eq!((failure.rank, failure.class), (Some(Rank(1)), FailureClass::Application));
    assert!(
        failure.message.contains("killed by signal 9 (OOM-killed (limit 96 MiB))"),
        "{}",
        failure.message
    );
}

#[test]
fn a_port_that_is_taken_after_all_is_not_charged_until_it_is_so_every_time() {
    let (mut h, job) = running(&[("a", 1)]);
    let mut free = 0;
    while h.job(&job).restarts_infrastructure == 0 {
        let explanation = explained("RendezvousPortTaken", "port 29500 is taken");
        h.end_task_as(&job, 0, TaskExit { explanation, ..exit(ExitStatus::Code(1), h.now) });
        h.follow_all();
        h.pass(Duration::from_secs(40));
        h.follow_all();
        assert_eq!(h.state(&job), JobState::Running);
        free += 1;
    }
    assert_eq!(free, FREE_PLACEMENTS + 1);
    assert_eq!(failure(&h, &job).class, FailureClass::Infrastructure);
}

#[test]
fn a_published_port_that_is_taken_is_not_charged_and_a_program_that_chose_one_is() {
    for (status, charged) in [(ExitStatus::Unknown, false), (ExitStatus::Code(1), true)] {
        let (mut h, job) = running(&[("a", 1)]);
        let explanation = explained("PortTaken", "port 8080 is taken");
        h.end_task_as(&job, 0, TaskExit { explanation, ..exit(status, h.now) });
        h.follow_all();
        assert_eq!(h.state(&job) == JobState::Failed, charged, "{status:?}");
    }
}

#[test]
fn a_final_refusal_is_remembered_with_its_explanation() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let job = h.submit(spec("one", 1, 1));
    let key = h.core.desired(&node_id("a")).unwrap().replicas[0].key();
    let explanation = explained("ImageNotFound", "there is no such image");
    let phase = ReplicaPhase::Refused {
        message: "no image".to_owned(),
        retryable: false,
        explanation: explanation.clone(),
    };
    let replica = ObservedReplica { key, phase, tasks: Vec::new(), progress: None, conditions: Vec::new() };
    h.edit_report("a", |report| report.replicas = vec![replica]);
    assert_eq!(h.state(&job), JobState::Failed);
    let failure = failure(&h, &job);
    assert_eq!((failure.explanation, failure.message), (explanation, h.job(&job).reason));
    assert_eq!((failure.node, failure.rank), (Some(node_id("a")), None));
}

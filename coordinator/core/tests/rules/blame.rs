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
        rank: None,
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

/// Two tasks of two ranks each, as under plain torchrun: rank 3 is in the task of node b, whose first is rank 2.
fn two_by_two() -> (Harness, JobId) {
    let mut h = Harness::with_nodes(&[("a", 2), ("b", 2)]);
    let mut spec = spec("train", 2, 2);
    spec.layout = RankLayout::PerNode;
    let job = h.submit(spec);
    h.follow_all();
    assert_eq!(h.state(&job), JobState::Running);
    (h, job)
}

#[test]
fn under_torchrun_the_rank_inside_the_task_is_blamed_whatever_was_noticed_first() {
    let own = [
        ("PythonException", ExitStatus::Code(1), FailureClass::Application),
        ("WorkerFailed", ExitStatus::Code(1), FailureClass::Application),
        ("OutOfMemory", ExitStatus::Code(1), FailureClass::Application),
        ("Segfault", ExitStatus::Signal(15), FailureClass::Application),
    ];
    for ((cause, status, class), stopped) in own.into_iter().flat_map(|own| [(own, false), (own, true)]) {
        let (mut h, job) = two_by_two();
        let lost = exit(ExitStatus::Code(1), Timestamp(5));
        h.end_task_as(&job, 0, lost.clone());
        let first = failure(&h, &job);
        assert!(first.message.starts_with("ranks 0-1 on a exited with code 1"), "{}", first.message);
        let of = |rank, told: Option<Box<Explanation>>| {
            told.map(|e| Box::new(Explanation { rank: Some(Rank(rank)), ..*e }))
        };
        let explanation = of(1, explained("PeerLost", "another rank went away"));
        h.end_task_as(&job, 0, TaskExit { explanation, ..lost });
        let oom_killed = cause == "OutOfMemory";
        let explanation = of(3, explained(cause, "its own doing"));
        h.end_task_as(&job, 2, TaskExit { stopped, oom_killed, explanation, ..exit(status, Timestamp(900)) });
        h.follow_all();
        let failure = failure(&h, &job);
        assert_eq!(
            (failure.rank, failure.node.clone(), failure.class),
            (Some(Rank(3)), Some(node_id("b")), class)
        );
        assert_eq!(failure.oom_killed, oom_killed);
        let by_us = stopped && status == ExitStatus::Signal(15);
        assert_eq!(failure.exit, Some(status).filter(|_| !by_us));
        assert_eq!(
            failure.message, "rank 3 on b: its own doing; see: convoke logs train --rank 3",
            "{cause}"
        );
    }
}

#[test]
fn a_rank_that_was_only_stopped_is_not_blamed() {
    let (mut h, job) = two_by_two();
    let lost = exit(ExitStatus::Code(1), Timestamp(50));
    h.end_task_as(&job, 2, lost.clone());
    let explanation = explained("Stopped", "Convoke stopped it");
    let status = ExitStatus::Signal(15);
    h.end_task_as(&job, 0, TaskExit { stopped: true, explanation, ..exit(status, Timestamp(1)) });
    h.end_task_as(&job, 2, TaskExit { explanation: explained("PeerLost", "another rank went away"), ..lost });
    h.follow_all();
    assert_eq!(failure(&h, &job).rank, Some(Rank(2)));
}

#[test]
fn where_every_task_only_lost_another_that_is_said_of_the_earliest() {
    let (mut h, job) = two_by_two();
    for (rank, at) in [(2, 70), (0, 60)] {
        let explanation = explained("PeerLost", "another rank went away");
        h.end_task_as(&job, rank, TaskExit { explanation, ..exit(ExitStatus::Code(1), Timestamp(at)) });
    }
    h.follow_all();
    let failure = failure(&h, &job);
    let wanted = "rank 0 on a: another rank went away; no rank showed a cause of its own, and this one failed first; \
                  see: convoke logs train --rank 0";
    assert_eq!((failure.rank, failure.message.as_str()), (Some(Rank(0)), wanted));
    assert!(failure.explanation.unwrap().advice.contains("convoke nodes"));
}

#[test]
fn a_node_that_was_lost_is_named_where_the_others_only_lost_a_peer() {
    let (mut h, job) = two_by_two();
    h.disconnect("b");
    let explanation = explained("PeerLost", "another rank went away");
    h.end_task_as(&job, 0, TaskExit { explanation, ..exit(ExitStatus::Code(1), h.now) });
    h.follow(&node_id("a"));
    let failure = failure(&h, &job);
    assert_eq!((failure.node, failure.class), (Some(node_id("b")), FailureClass::Infrastructure));
    assert!(
        failure.message.starts_with("node b could not be reached when rank 0 on a"),
        "{}",
        failure.message
    );
}

#[test]
fn a_registry_that_cannot_be_reached_is_asked_a_few_times_and_the_count_agrees() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let job = h.submit(spec("one", 1, 1));
    let mut pauses = Vec::new();
    while h.state(&job) != JobState::Failed {
        refuse(&mut h, explained("RegistryUnreachable", "the registry does not answer"));
        h.follow_all_stopping();
        let since = h.now;
        while h.state(&job) == JobState::Queued {
            h.pass(h.core.next_deadline().unwrap().since(h.now));
        }
        pauses.push(h.now.since(since).as_secs());
    }
    assert_eq!(pauses, [1, 5, 25, 0]);
    let view = h.job(&job);
    assert_eq!((view.generation, view.restarts_infrastructure), (Generation(4), 0));
    assert_eq!(view.reason, "node a could not prepare it: the registry does not answer; tried 4 times");
    assert_eq!(view.last_failure.unwrap().failure.explanation.unwrap().cause, "RegistryUnreachable");
}

/// Node a cannot prepare its replica, and the next placement is there.
fn refuse(h: &mut Harness, explanation: Option<Box<Explanation>>) {
    let key = h.core.desired(&node_id("a")).unwrap().replicas[0].key();
    let phase =
        ReplicaPhase::Refused { message: "Get \"https://…".to_owned(), retryable: true, explanation };
    let replica = ObservedReplica { key, phase, tasks: Vec::new(), progress: None, conditions: Vec::new() };
    h.edit_report("a", |report| report.replicas = vec![replica]);
}

#[test]
fn a_registry_that_fails_once_after_other_refusals_is_asked_again() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let job = h.submit(spec("one", 1, 1));
    for explanation in [None, None, None, explained("RegistryUnreachable", "the registry does not answer")] {
        refuse(&mut h, explanation);
        h.follow_all_stopping();
        h.pass(Duration::from_secs(30));
    }
    assert_eq!(h.state(&job), JobState::Starting, "{}", h.job(&job).reason);
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

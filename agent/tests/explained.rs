//! Failed tasks are explained once: before their replica ends, and for the next agent too.

mod support;

use convoke_model::{Explanation, ObservedReplica, ReplicaPhase, TaskExit, TaskPhase};
use support::{Coordinator, Site, running, shell, stopped};

/// The exits of a replica that has ended.
fn ended(replica: &ObservedReplica) -> Option<Vec<TaskExit>> {
    let exit = |phase: &TaskPhase| match phase {
        TaskPhase::Exited(exit) => Some(exit.clone()),
        TaskPhase::Waiting | TaskPhase::Running { .. } => None,
    };
    (replica.phase == ReplicaPhase::Ended)
        .then(|| replica.tasks.iter().map(|t| exit(&t.phase)).collect())
        .flatten()
}

fn cause(exit: &TaskExit) -> Option<&str> {
    exit.explanation.as_deref().map(|Explanation { cause, .. }| cause.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_ends_with_its_tasks_explained_and_the_next_agent_says_the_same() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let agent = site.agent(&coordinator.url());
    // What is said between the traceback and the end is far more than is read.
    let script = "[ $RANK = 1 ] && exit 0\n\
                  [ $RANK = 2 ] && kill -SEGV $$\n\
                  [ $RANK = 3 ] && exit 3\n\
                  i=0; while [ $i -lt 1000 ]; do echo $i; i=$((i+1)); done\n\
                  printf 'Traceback (most recent call last):\\n  File \"a.py\", line 7, in <module>\\nValueError: no\\n' >&2\n\
                  exit 1";
    let replica = shell("j", 1, &["cpu-0", "cpu-1", "cpu-2", "cpu-3"], script);
    coordinator.want(&[running(&replica)]);
    let first = coordinator.wait_replica(&replica, "the end", ended).await;
    let causes: Vec<_> = first.iter().map(cause).collect();
    assert_eq!(causes, [Some("PythonException"), None, Some("Segfault"), None]);
    let told = first[0].explanation.as_ref().unwrap();
    assert_eq!((told.summary.as_str(), told.evidence.len()), ("ValueError: no", 3));

    agent.kill();
    coordinator.change(|m| m.observed = None);
    let _agent = site.agent(&coordinator.url());
    assert_eq!(coordinator.wait_replica(&replica, "the end", ended).await, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_died_before_it_could_tell_why_is_followed_by_one_that_does() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let agent = site.agent(&coordinator.url());
    let gate = site.path("gate");
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; echo 'train: error: unrecognized arguments: --epoch' >&2; exit 2",
        gate.display()
    );
    let replica = shell("j", 1, &["cpu-0"], &script);
    coordinator.want(&[running(&replica)]);
    coordinator.wait_running(&replica).await;
    agent.kill();
    std::fs::write(&gate, "").unwrap();
    let _agent = site.agent(&coordinator.url());
    let exits = coordinator.wait_replica(&replica, "the end", ended).await;
    assert_eq!(cause(&exits[0]), Some("BadArguments"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_was_stopped_says_so_and_a_missing_program_is_named() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    let replica = shell("j", 1, &["cpu-0"], "exec sleep 600");
    let mut missing = shell("k", 1, &["cpu-1"], "");
    missing.spec.command = vec!["no-such-trainer".into()];
    coordinator.want(&[running(&replica), running(&missing)]);
    coordinator.wait_running(&replica).await;
    coordinator.want(&[stopped(&replica, 5_000), running(&missing)]);
    let exits = coordinator.wait_replica(&replica, "the end", ended).await;
    assert_eq!(cause(&exits[0]), Some("Stopped"));
    let exits = coordinator.wait_replica(&missing, "the end", ended).await;
    assert_eq!(cause(&exits[0]), Some("CommandNotFound"));
    assert_eq!(exits[0].explanation.as_ref().unwrap().key.as_deref(), Some("command"));
}

//! What a new agent makes of a task whose records are damaged: it is the task's shim that counts.
#![allow(clippy::unwrap_used, reason = "clippy only knows test functions as tests")]

#[path = "host/mod.rs"]
mod host;

use std::fs;
use std::time::Duration;

use convoke_agent::runtime::{Runtime as _, RuntimeError, TaskStatus};
use convoke_model::ExitStatus;
use host::Host;

/// What a full disk, a lost block and a lost file leave.
const DAMAGES: [fn(&std::path::Path); 3] = [
    |file| fs::write(file, "").unwrap(),
    |file| {
        let whole = fs::read(file).unwrap();
        // Some end with a page of spaces.
        fs::write(file, &whole[..20]).unwrap();
    },
    |file| fs::write(file, [0; 512]).unwrap(),
];

#[tokio::test]
async fn a_running_task_is_known_by_its_shim_and_not_started_again() {
    for (damage, name) in DAMAGES.iter().flat_map(|damage| [(damage, "task.json"), (damage, "started.json")])
    {
        let mut host = Host::new();
        let task =
            host.start(0, "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.02; done").await;
        host.until_line(&task, "ready").await;
        let shim = host.shim(&task);
        damage(&host.runtime.task_dir(&task).path().join(name));
        assert_eq!(host.agent_restarts().await, std::slice::from_ref(&task), "{name}");
        assert!(matches!(host.runtime.status(&task), Some(TaskStatus::Running { .. })), "{name}");
        let again = host.runtime.start(host.spec(0, "echo second")).await;
        assert!(matches!(again, Err(RuntimeError::Exists(_))), "{again:?}");
        assert!(host::is_there(shim), "{name}");
        host.runtime.stop(&task, Duration::from_secs(60)).await.unwrap();
        let exit = host.ended(&task).await;
        assert_eq!((exit.status, exit.stopped), (ExitStatus::Code(5), true), "{name}");
        assert!(host.lines(&task).iter().any(|line| line.text == "bye"));
        host.runtime.remove(&task).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_task_with_a_damaged_record_leaves_behind_is_found_by_its_marker() {
    let mut host = Host::new();
    let task = host.start(0, "(setsid sleep 8100 &) ; echo ready; sleep 8101").await;
    host.until_line(&task, "ready").await;
    fs::write(host.runtime.task_dir(&task).path().join("task.json"), "").unwrap();
    let shim = host.shim(&task);
    host.agent_restarts().await;
    host::kill(shim);
    assert_eq!(host.ended(&task).await.status, ExitStatus::Unknown);
    assert_eq!(host::sleepers(&["8100", "8101"]), Vec::<i32>::new());
}

#[tokio::test]
async fn a_task_whose_exit_record_is_damaged_has_ended_and_says_why_nobody_knows_how() {
    for damage in DAMAGES {
        let mut host = Host::new();
        let task = host.start(0, "exit 0").await;
        host.ended(&task).await;
        damage(&host.runtime.task_dir(&task).path().join("exit.json"));
        assert_eq!(host.agent_restarts().await, std::slice::from_ref(&task));
        let exit = host.ended(&task).await;
        assert_eq!(exit.status, ExitStatus::Unknown);
        assert!(exit.message.unwrap().contains("damaged"));
    }
}

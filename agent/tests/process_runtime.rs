//! The process runtime with real processes and the agent's own shim.

#[path = "host/mod.rs"]
mod host;

use std::time::Duration;

use convoke_agent::runtime::{Runtime as _, RuntimeError, TaskStatus};
use convoke_agent::spool::Source;
use convoke_model::ExitStatus;
use host::Host;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_task_that_returns_zero_or_three_is_reported_so() {
    let host = Host::new();
    for (rank, code) in [(0, 0), (1, 3)] {
        let task = host.start(rank, &format!("echo out; echo err >&2; exit {code}")).await;
        let exit = host.ended(&task).await;
        assert_eq!((exit.status, exit.stopped, exit.message), (ExitStatus::Code(code), false, None));
        let mut lines = host.lines(&task);
        lines.sort_by_key(|l| l.source == Source::Stderr);
        assert_eq!(lines.iter().map(|l| l.text.as_str()).collect::<Vec<_>>(), ["out", "err"]);
        host.runtime.remove(&task).await.unwrap();
        assert!(!host.runtime.task_dir(&task).path().exists());
        assert_eq!(host.runtime.status(&task), None);
    }
}

#[tokio::test]
async fn a_signal_is_reported_as_that_signal() {
    let host = Host::new();
    let task = host.start(0, "kill -KILL $$").await;
    assert_eq!(host.ended(&task).await.status, ExitStatus::Signal(9));
}

#[tokio::test]
async fn a_missing_program_is_an_exit_with_its_name_and_where_it_was_looked_for() {
    let host = Host::new();
    let mut spec = host.spec(0, "");
    spec.argv = vec!["convoke-no-such-trainer".to_owned(), "--epochs".to_owned()];
    let exit = host.run(spec).await;
    assert_eq!(exit.status, ExitStatus::Code(127));
    let message = exit.message.unwrap();
    assert!(message.starts_with("convoke-no-such-trainer: command not found on node-a"), "{message}");
    assert!(message.contains("/bin"), "{message}");
}

#[tokio::test]
async fn what_is_no_program_and_a_missing_directory_are_exits_that_say_so() {
    let host = Host::new();
    let plain = host.path("plain");
    std::fs::write(&plain, "no program").unwrap();
    let mut spec = host.spec(0, "");
    spec.argv = vec![plain.display().to_string()];
    let exit = host.run(spec).await;
    assert_eq!(exit.status, ExitStatus::Code(126));
    assert!(exit.message.unwrap().contains("is not executable; chmod +x it"));

    let mut spec = host.spec(1, "true");
    spec.working_dir = host.path("absent");
    let exit = host.run(spec).await;
    assert_eq!(exit.status, ExitStatus::Code(126));
    assert!(exit.message.unwrap().contains("absent is not on node-a; create it there"));
}

#[tokio::test]
async fn a_task_has_only_the_environment_it_was_given_and_its_directory() {
    let host = Host::new();
    let mut spec = host.spec(0, "pwd; env");
    spec.environment.insert("RANK".to_owned(), "7".to_owned());
    host.run(spec.clone()).await;
    let text: Vec<String> = host.lines(&spec.key).into_iter().map(|l| l.text).collect();
    assert_eq!(std::path::Path::new(&text[0]), host.path("").canonicalize().unwrap());
    assert!(text.contains(&"RANK=7".to_owned()));
    assert!(!text.iter().any(|l| l.starts_with("CARGO")), "{text:?}");
    let agent_dir = host::agent_binary().parent().unwrap().display().to_string();
    assert!(text.iter().any(|l| l.starts_with("PATH=") && l.ends_with(&agent_dir)), "{text:?}");
}

#[tokio::test]
async fn stop_is_the_stop_signal_first() {
    let host = Host::new();
    let task = host.start(0, "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.02; done").await;
    host.until_line(&task, "ready").await;
    host.runtime.stop(&task, LONG).await.unwrap();
    let exit = host.ended(&task).await;
    assert_eq!((exit.status, exit.stopped), (ExitStatus::Code(5), true));
    // The shell itself may remark on stderr that its child was terminated.
    assert!(host.lines(&task).iter().any(|l| l.text == "bye" && l.source == Source::Stdout));
}

#[tokio::test]
async fn a_task_that_ignores_sigterm_is_killed_and_a_shorter_grace_brings_that_forward() {
    let host = Host::new();
    let task = host.start(0, "trap '' TERM; echo ready; while :; do sleep 1; done").await;
    host.until_line(&task, "ready").await;
    host.runtime.stop(&task, Duration::from_secs(3600)).await.unwrap();
    assert!(matches!(host.runtime.status(&task), Some(TaskStatus::Running { .. })));
    assert!(matches!(host.runtime.remove(&task).await, Err(RuntimeError::StillRunning(_))));
    host.runtime.stop(&task, Duration::ZERO).await.unwrap();
    let exit = host.ended(&task).await;
    assert_eq!((exit.status, exit.stopped), (ExitStatus::Signal(9), true));
    assert!(exit.message.unwrap().contains("grace"));
}

#[tokio::test]
async fn daemons_of_a_task_are_gone_when_it_has_ended() {
    let host = Host::new();
    // A new session, two forks, and the marker removed from the environment.
    let script = "(setsid sh -c 'env -i sleep 1000 & sleep 1001' &) ; (sleep 1002 &) ; echo ready; exit 0";
    let task = host.start(0, script).await;
    assert_eq!(host.ended(&task).await.status, ExitStatus::Code(0));
    assert_eq!(host::sleepers(&["1000", "1001", "1002"]), Vec::<i32>::new());
}

#[tokio::test]
async fn daemons_that_ignore_sigterm_are_gone_after_a_stop() {
    let host = Host::new();
    let script = "trap '' TERM; (setsid sleep 2000 &) ; echo ready; while :; do sleep 2001; done";
    let task = host.start(0, script).await;
    host.until_line(&task, "ready").await;
    host.runtime.stop(&task, Duration::from_millis(100)).await.unwrap();
    host.ended(&task).await;
    assert_eq!(host::sleepers(&["2000", "2001"]), Vec::<i32>::new());
}

#[tokio::test]
async fn a_grandchild_that_holds_stdout_open_does_not_hold_up_the_end() {
    let host = Host::new();
    let task = host.start(0, "sleep 3000 & echo said").await;
    assert_eq!(host.ended(&task).await.status, ExitStatus::Code(0));
    assert_eq!(host.lines(&task)[0].text, "said");
}

#[tokio::test]
async fn starting_a_known_task_again_is_refused() {
    let host = Host::new();
    let task = host.start(0, "sleep 4000").await;
    assert!(matches!(host.runtime.start(host.spec(0, "true")).await, Err(RuntimeError::Exists(_))));
    host.runtime.stop(&task, Duration::ZERO).await.unwrap();
    host.ended(&task).await;
}

#[test]
fn a_descriptor_that_the_agents_starter_left_open_does_not_reach_the_task() {
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;

    let host = Host::new();
    let (mut ours, theirs) = std::io::pipe().unwrap();
    // Only marked now, so that the shim of this test inherits it.
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
    let check = format!("[ ! -e /proc/self/fd/{} ]", theirs.as_raw_fd());
    let agent = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    agent.block_on(async {
        let task = host.start(0, &format!("{check} || exit 9; echo ready; sleep 10000")).await;
        host.until_line(&task, "ready").await;
        drop(theirs);
        // Would block while the shim or the task held the other end.
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        host.runtime.stop(&task, Duration::ZERO).await.unwrap();
        host.ended(&task).await;
    });
}

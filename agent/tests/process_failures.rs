//! The process runtime when something dies, or the disk is full.

#[path = "host/mod.rs"]
mod host;

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use convoke_agent::runtime::{Runtime as _, RuntimeError, TaskStatus};
use convoke_agent::spool::MAX_LINE;
use convoke_model::ExitStatus;
use host::Host;

/// What runs an agent; dropping it is the agent's sudden end.
fn agent() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts")
}

#[test]
fn a_new_agent_finds_what_runs_and_what_ended_meanwhile() {
    let mut host = Host::new();
    let go = host.path("go");
    let wait = format!("until [ -e {} ]; do sleep 0.02; done", go.display());
    let [runs, ends] = agent()
        .block_on(async { [host.start(0, &format!("{wait}; exit 6")).await, host.start(1, "exit 4").await] });
    // A directory that an agent was killed in the middle of making.
    std::fs::create_dir(host.path("tasks/half")).unwrap();
    agent().block_on(async {
        assert_eq!(host.agent_restarts().await, [runs.clone(), ends.clone()]);
        assert!(matches!(host.runtime.status(&runs), Some(TaskStatus::Running { .. })));
        assert_eq!(host.ended(&ends).await.status, ExitStatus::Code(4));
        assert!(!host.path("tasks/half").exists());
        File::create(go).unwrap();
        assert_eq!(host.ended(&runs).await.status, ExitStatus::Code(6));
    });
}

#[tokio::test]
async fn a_new_agent_can_stop_what_the_old_one_started() {
    let mut host = Host::new();
    let task = host.start(0, "trap '' TERM; echo ready; while :; do sleep 6000; done").await;
    host.until_line(&task, "ready").await;
    host.agent_restarts().await;
    host.runtime.stop(&task, Duration::ZERO).await.unwrap();
    assert_eq!(host.ended(&task).await.status, ExitStatus::Signal(9));
    assert_eq!(host::sleepers(&["6000"]), Vec::<i32>::new());
    host.runtime.remove(&task).await.unwrap();
    assert_eq!(host.agent_restarts().await, []);
}

#[tokio::test]
async fn a_killed_shim_takes_its_task_along_and_the_exit_is_unknown() {
    let host = Host::new();
    let task = host.start(0, "(setsid sleep 7000 &) ; echo ready; sleep 7001").await;
    host.until_line(&task, "ready").await;
    host::kill(host.shim(&task));
    let exit = host.ended(&task).await;
    assert_eq!((exit.status, exit.stopped), (ExitStatus::Unknown, false));
    assert!(exit.message.unwrap().contains("without an exit record"));
    assert_eq!(host::sleepers(&["7000", "7001"]), Vec::<i32>::new());
    assert_eq!(host.lines(&task)[0].text, "ready");
}

#[test]
fn a_shim_killed_while_no_agent_ran_is_found_by_the_next_agent() {
    let mut host = Host::new();
    let task = agent().block_on(async {
        let task = host.start(0, "(setsid sleep 8000 &) ; echo ready; sleep 8001").await;
        host.until_line(&task, "ready").await;
        task
    });
    host::kill(host.shim(&task));
    agent().block_on(async {
        assert_eq!(host.agent_restarts().await, std::slice::from_ref(&task));
        assert_eq!(host.ended(&task).await.status, ExitStatus::Unknown);
    });
    assert_eq!(host::sleepers(&["8000", "8001"]), Vec::<i32>::new());
}

#[tokio::test]
async fn a_start_that_is_given_up_is_known_until_nothing_of_it_is_left() {
    let host = Host::with_held_shims("go");
    let spec = host.spec(0, "trap '' TERM; while :; do sleep 5000; done");
    let task = spec.key.clone();
    assert!(futures::poll!(std::pin::pin!(host.runtime.start(spec))).is_pending());
    // The start was dropped.
    assert_eq!(host.runtime.status(&task), Some(TaskStatus::Starting));
    assert!(matches!(host.runtime.remove(&task).await, Err(RuntimeError::StillRunning(_))));
    host.runtime.stop(&task, Duration::ZERO).await.unwrap();
    File::create(host.path("go")).unwrap();
    let exit = host.ended(&task).await;
    assert_eq!((exit.status, exit.stopped), (ExitStatus::Signal(9), true));
    assert_eq!(host::sleepers(&["5000"]), Vec::<i32>::new());
}

#[tokio::test]
async fn a_released_lifeline_ends_shim_and_task() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lifeline");
    let lifeline = File::create(&path).unwrap();
    lifeline.lock().unwrap();
    let host = Host::with_lifeline(&path);
    let task = host.start(0, "(setsid sleep 9000 &) ; echo ready; sleep 9001").await;
    host.until_line(&task, "ready").await;
    drop(lifeline);
    host.ended(&task).await;
    assert_eq!(host::sleepers(&["9000", "9001"]), Vec::<i32>::new());
}

#[tokio::test]
async fn a_flood_ends_with_its_last_line_within_the_bound() {
    let host = Host::new();
    let task =
        host.start(0, "head -c 30000000 /dev/zero | tr '\\0' 'x' | fold -w 100; echo; echo last").await;
    assert_eq!(host.ended(&task).await.status, ExitStatus::Code(0));
    let lines = host.lines(&task);
    assert_eq!((lines.last().unwrap().text.as_str(), lines.last().unwrap().sequence), ("last", 300_000));
    assert!(lines[0].sequence > 0, "30 MB do not fit into 16 MiB");
    assert!(lines.windows(2).all(|w| w[1].sequence == w[0].sequence + 1));
}

#[tokio::test]
async fn a_line_of_a_mebibyte_and_a_last_line_without_newline_arrive_whole() {
    let host = Host::new();
    let task = host.start(0, "head -c 1048576 /dev/zero | tr '\\0' 'y'; echo; printf '\\377tail'").await;
    host.ended(&task).await;
    let lines = host.lines(&task);
    let (tail, long) = lines.split_last().unwrap();
    assert_eq!(tail.text, "\u{fffd}tail");
    assert!(long.iter().all(|l| l.text.len() <= MAX_LINE));
    assert_eq!(long.iter().map(|l| l.text.len()).sum::<usize>(), 1 << 20);
}

#[tokio::test]
async fn a_full_disk_costs_old_lines_but_neither_the_task_nor_its_exit_record() {
    let host = Host::new();
    let target = host.path("").display().to_string();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=600k", "tmpfs", &target]);
    if !mount.status().is_ok_and(|status| status.success()) {
        eprintln!("not checked: this user cannot mount a small file system");
        return;
    }
    let _mounted = Mounted(target);
    let script = "head -c 5000000 /dev/zero | tr '\\0' 'x' | fold -w 100; echo; echo last; exit 3";
    let task = host.start(0, script).await;
    assert_eq!(host.ended(&task).await.status, ExitStatus::Code(3));
    let lines = host.lines(&task);
    assert_eq!((lines.last().unwrap().text.as_str(), lines.last().unwrap().sequence), ("last", 50_000));
    assert!(lines[0].sequence > 0, "5 MB do not fit into 600 KiB");
}

struct Mounted(String);

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").args(["--lazy", &self.0]).status().ok();
    }
}

//! How containers end: by themselves, when asked, and when they must.

use std::time::Duration;

use bollard::query_parameters::{RemoveContainerOptionsBuilder, RestartContainerOptionsBuilder};
use convoke_agent::runtime::{Runtime as _, RuntimeError, TaskStatus};
use convoke_model::ExitStatus;

use super::host::{Host, block_on};

const LONG: Duration = Duration::from_secs(3600);

pub(super) fn stop_is_the_stop_signal_first() {
    block_on(async {
        let host = Host::new().await;
        let mut spec = host
            .spec(0, &["sh", "-c", "trap 'echo bye; exit 5' USR1; echo ready; while :; do sleep 0.02; done"]);
        spec.stop_signal = 10;
        let task = host.start_spec(spec).await;
        host.until_line(&task, "ready").await;
        host.runtime.stop(&task, LONG).await.unwrap();
        let exit = host.ended(&task).await;
        assert_eq!((exit.status, exit.stopped), (ExitStatus::Code(5), true));
        assert!(host.texts(&task).contains(&"bye".to_owned()));
    });
}

pub(super) fn an_entrypoint_that_ignores_sigterm_is_killed_and_a_shorter_grace_brings_that_forward() {
    block_on(async {
        let host = Host::new().await;
        let task = host.start(0, "trap '' TERM; echo ready; while :; do sleep 1; done").await;
        host.until_line(&task, "ready").await;
        host.runtime.stop(&task, LONG).await.unwrap();
        assert!(matches!(host.runtime.status(&task), Some(TaskStatus::Running { .. })));
        assert!(matches!(host.runtime.remove(&task).await, Err(RuntimeError::StillRunning(_))));
        host.runtime.stop(&task, Duration::from_millis(50)).await.unwrap();
        let exit = host.ended(&task).await;
        assert_eq!((exit.status, exit.stopped), (ExitStatus::Signal(9), true));
        assert!(exit.message.unwrap().contains("grace"));
    });
}

pub(super) fn a_first_process_without_handlers_ends_at_once() {
    block_on(async {
        let host = Host::new().await;
        // The kernel keeps signals without a handler from a first process: Python's, for one. The init
        // that containers get is that process instead.
        let task = host.start(0, "echo ready; exec sleep 600").await;
        host.until_line(&task, "ready").await;
        host.runtime.stop(&task, LONG).await.unwrap();
        let exit = host.ended(&task).await;
        assert_eq!((exit.status, exit.stopped), (ExitStatus::Signal(15), true));
    });
}

pub(super) fn a_kill_for_memory_is_named_with_its_limit() {
    block_on(async {
        let host = Host::new().await;
        let mut spec = host.spec(0, &["tail", "/dev/zero"]);
        spec.container.as_mut().unwrap().limits.memory = Some(32 << 20);
        let exit = host.ended(&host.start_spec(spec).await).await;
        assert_eq!((exit.status, exit.stopped), (ExitStatus::Signal(9), false));
        assert_eq!(exit.message.as_deref(), Some("OOM-killed (limit 32.0 MiB)"));
    });
}

pub(super) fn a_container_that_somebody_restarts_is_an_end_that_says_so() {
    block_on(async {
        let host = Host::new().await;
        let task = host.start(0, "echo said; exec sleep 600").await;
        host.until_line(&task, "said").await;
        let name = host.containers().await.remove(0);
        let at_once = RestartContainerOptionsBuilder::default().t(0).build();
        host.docker.restart_container(name.trim_start_matches('/'), Some(at_once)).await.unwrap();
        let exit = host.ended(&task).await;
        assert_eq!(exit.status, ExitStatus::Unknown);
        assert!(exit.message.as_deref().is_some_and(|m| m.contains("restarted its container")), "{exit:?}");
        host.runtime.remove(&task).await.unwrap();
        assert!(host.containers().await.is_empty());
    });
}

pub(super) fn a_container_that_somebody_removes_is_an_end_that_says_so() {
    block_on(async {
        let host = Host::new().await;
        let task = host.start(0, "echo said; exec sleep 600").await;
        host.until_line(&task, "said").await;
        let name = host.containers().await.remove(0);
        let force = RemoveContainerOptionsBuilder::default().force(true).build();
        host.docker.remove_container(name.trim_start_matches('/'), Some(force)).await.unwrap();
        let exit = host.ended(&task).await;
        assert!(!exit.status.is_success(), "{exit:?}");
        assert_eq!(host.texts(&task)[0], "said");
        host.runtime.remove(&task).await.unwrap();
    });
}

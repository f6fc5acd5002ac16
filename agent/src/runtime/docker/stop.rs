//! Asking a task to end: its stop signal now, SIGKILL when its grace is over.

use std::time::Duration;

use bollard::query_parameters::KillContainerOptionsBuilder;
use tokio::time::Instant;

use super::super::{RuntimeError, TaskKey, TaskStatus, io_error};
use super::DockerRuntime;
use crate::engine::{Engine, EngineError};

pub(super) const KILL: i32 = 9;
/// Far beyond any job's life, and far from the clock's end.
const LONGEST_GRACE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl DockerRuntime {
    pub(super) async fn stop_one(&self, task: &TaskKey, grace: Duration) -> Result<(), RuntimeError> {
        let (container, signal, first) = {
            let mut tasks = self.shared.tasks();
            let known = tasks.get_mut(task).ok_or_else(|| RuntimeError::Unknown(task.clone()))?;
            match known.status {
                // Its start gives up as soon as it is through.
                TaskStatus::Starting => {
                    known.stopped = true;
                    return Ok(());
                }
                TaskStatus::Ended(_) => return Ok(()),
                TaskStatus::Running { .. } | TaskStatus::Exited(_) => {}
            }
            (known.container.clone(), known.stop_signal, !known.stopped)
        };
        if first {
            // Before it is asked, so that also the next agent knows why it ended.
            self.shared.dir(task).mark_stopping().map_err(io_error(format!("noting the stop of {task}")))?;
            if let Some(known) = self.shared.tasks().get_mut(task) {
                known.stopped = true;
            }
        }
        let asked = self.shared.tasks().get(task).is_some_and(|known| known.kill_at.borrow().is_some());
        if !asked && !grace.is_zero() {
            send_signal(&self.reached()?.engine, &container, signal).await?;
        }
        let at = Instant::now() + grace.min(LONGEST_GRACE);
        if let Some(known) = self.shared.tasks().get(task) {
            known.kill_at.send_modify(|before| *before = Some(before.map_or(at, |before| before.min(at))));
        }
        Ok(())
    }
}

/// Sends a signal to a container's first process. One that is not running needs none.
pub(super) async fn send_signal(engine: &Engine, container: &str, signal: i32) -> Result<(), EngineError> {
    let options = KillContainerOptionsBuilder::default().signal(&signal.to_string()).build();
    match engine.docker().kill_container(container, Some(options)).await {
        Ok(()) => Ok(()),
        Err(error) => match engine.error("does not signal a container", error) {
            EngineError::Refused { status: 404 | 409, .. } => Ok(()),
            error => Err(error),
        },
    }
}

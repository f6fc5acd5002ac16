//! Removing what is left of a task: its container, then its files.

use std::fs;
use std::io;

use bollard::query_parameters::RemoveContainerOptionsBuilder;

use super::super::{RuntimeError, TaskKey, TaskStatus, io_error};
use super::DockerRuntime;
use crate::engine::{Engine, EngineError};

impl DockerRuntime {
    /// Ends every task at once and leaves no container of theirs, for an agent that nobody wants any more.
    pub async fn remove_all(&self) {
        let Ok(reached) = self.reached() else { return };
        let containers: Vec<String> =
            self.shared.tasks().values().map(|known| known.container.clone()).collect();
        let removing = containers.iter().map(|container| remove_container(&reached.engine, container));
        futures::future::join_all(removing).await;
    }

    pub(super) async fn remove_one(&self, task: &TaskKey) -> Result<(), RuntimeError> {
        let container = {
            let tasks = self.shared.tasks();
            let known = tasks.get(task).ok_or_else(|| RuntimeError::Unknown(task.clone()))?;
            match known.status {
                TaskStatus::Ended(_) => known.container.clone(),
                // A start that is under way may bring a container yet.
                TaskStatus::Starting | TaskStatus::Running { .. } | TaskStatus::Exited(_) => {
                    return Err(RuntimeError::StillRunning(task.clone()));
                }
            }
        };
        remove_container(&self.reached()?.engine, &container).await?;
        let dir = self.shared.dir(task);
        match tokio::fs::remove_dir_all(dir.path()).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error(format!("removing the directory of {task}"))(error));
            }
            _ => {}
        }
        self.shared.forget(task);
        Ok(())
    }
}

/// Removes a container, running or not, with the volumes that have no name. One that is gone already
/// is removed.
pub(super) async fn remove_container(engine: &Engine, container: &str) -> Result<(), EngineError> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match engine.docker().remove_container(container, Some(options)).await {
        Ok(()) => Ok(()),
        Err(error) => match engine.error("does not remove a container", error) {
            // 409: somebody else is removing it just now.
            EngineError::Refused { status: 404 | 409, .. } => Ok(()),
            error => Err(error),
        },
    }
}

/// Deletes a directory of which no task is known.
pub(super) fn remove_dir(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

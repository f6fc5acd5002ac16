//! The runtimes of one node as one: a task goes to the one that its job asks for.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;

use super::{DockerRuntime, Runtime, RuntimeError, TaskDir, TaskKey, TaskSpec, TaskStatus};

/// Host processes, and containers where there is an engine.
pub struct Runtimes {
    processes: Arc<dyn Runtime>,
    containers: Option<DockerRuntime>,
    changes: watch::Sender<u64>,
}

impl Runtimes {
    /// Both keep their tasks in the same directory, each its own. Needs a Tokio runtime.
    pub fn new(processes: Arc<dyn Runtime>, containers: Option<DockerRuntime>) -> Self {
        let changes = watch::Sender::new(0);
        let sources = [Some(processes.changes()), containers.as_ref().map(Runtime::changes)];
        for mut source in sources.into_iter().flatten() {
            let changes = changes.clone();
            tokio::spawn(async move {
                while source.changed().await.is_ok() {
                    changes.send_modify(|n| *n += 1);
                }
            });
        }
        Self { processes, containers, changes }
    }

    /// Who knows the task.
    fn of(&self, task: &TaskKey) -> &dyn Runtime {
        match &self.containers {
            Some(containers) if containers.status(task).is_some() => containers,
            _ => &*self.processes,
        }
    }
}

impl Runtime for Runtimes {
    fn recover(&self) -> BoxFuture<'_, Result<Vec<TaskKey>, RuntimeError>> {
        Box::pin(async move {
            let mut found = self.processes.recover().await?;
            if let Some(containers) = &self.containers {
                found.extend(containers.recover().await?);
            }
            Ok(found)
        })
    }

    fn start(&self, task: TaskSpec) -> BoxFuture<'_, Result<(), RuntimeError>> {
        match (&task.container, &self.containers) {
            (None, _) => self.processes.start(task),
            (Some(_), Some(containers)) => containers.start(task),
            (Some(_), None) => Box::pin(std::future::ready(Err(RuntimeError::NoEngine))),
        }
    }

    fn stop(&self, task: &TaskKey, grace: Duration) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.of(task).stop(task, grace)
    }

    fn remove(&self, task: &TaskKey) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.of(task).remove(task)
    }

    fn status(&self, task: &TaskKey) -> Option<TaskStatus> {
        self.of(task).status(task)
    }

    fn tasks(&self) -> Vec<TaskKey> {
        let containers = self.containers.iter().flat_map(Runtime::tasks);
        self.processes.tasks().into_iter().chain(containers).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn task_dir(&self, task: &TaskKey) -> TaskDir {
        self.processes.task_dir(task)
    }
}

//! Tasks as processes of the host, each under a shim that outlives the agent.

use std::path::PathBuf;
use std::time::Duration;

use convoke_model::RuntimeKind;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::{Runtime, RuntimeError, TaskDir, TaskKey, TaskSpec, TaskStatus};

/// How the process runtime is set up.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// Holds one directory per task.
    pub tasks_dir: PathBuf,
    /// The program whose `shim` subcommand owns a task: this agent's own.
    pub shim: PathBuf,
    /// Passed to the shims: they and their tasks end when its lock is released.
    pub lifeline: Option<PathBuf>,
}

pub struct ProcessRuntime {
    config: ProcessConfig,
    changes: watch::Sender<u64>,
}

impl ProcessRuntime {
    /// Needs a Tokio runtime from `recover` on.
    pub fn new(config: ProcessConfig) -> Self {
        Self { config, changes: watch::Sender::new(0) }
    }
}

impl Runtime for ProcessRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Process
    }

    fn recover(&self) -> BoxFuture<'_, Result<Vec<TaskKey>, RuntimeError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn start(&self, task: TaskSpec) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(async move { Err(RuntimeError::Unknown(task.key)) })
    }

    fn stop(&self, task: &TaskKey, _grace: Duration) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let task = task.clone();
        Box::pin(async move { Err(RuntimeError::Unknown(task)) })
    }

    fn remove(&self, task: &TaskKey) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let task = task.clone();
        Box::pin(async move { Err(RuntimeError::Unknown(task)) })
    }

    fn status(&self, _task: &TaskKey) -> Option<TaskStatus> {
        None
    }

    fn tasks(&self) -> Vec<TaskKey> {
        Vec::new()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn task_dir(&self, task: &TaskKey) -> TaskDir {
        TaskDir::new(self.config.tasks_dir.join(task.to_string()))
    }
}

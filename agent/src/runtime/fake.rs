//! A runtime without processes: the command itself orders what happens.
//!
//! Each word of the argument vector is a step: `run=3s`, `print=text`, `exit=1`, `signal=9`, `hang`
//! (until stopped), `deaf` (ignore the stop signal from here on), `refuse=message` (it cannot be
//! started). Nothing survives the agent.

use std::path::PathBuf;
use std::time::Duration;

use convoke_model::RuntimeKind;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::{Runtime, RuntimeError, TaskDir, TaskKey, TaskSpec, TaskStatus};

pub struct FakeRuntime {
    tasks_dir: PathBuf,
    changes: watch::Sender<u64>,
}

impl FakeRuntime {
    /// `tasks_dir` holds the spools of what the tasks print.
    pub fn new(tasks_dir: PathBuf) -> Self {
        Self { tasks_dir, changes: watch::Sender::new(0) }
    }
}

impl Runtime for FakeRuntime {
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
        TaskDir::new(self.tasks_dir.join(task.to_string()))
    }
}

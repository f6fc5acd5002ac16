//! Runtimes: how a task is started, stopped, watched and found again.
//!
//! A task is known from `start` (or `recover`) until `remove`. Its status only moves forward:
//! `Running` → `Exited` (the main process has ended, what it left behind is being cleared away) →
//! `Ended` (no process is left, its output is complete). Changes wake whoever holds [`Runtime::changes`];
//! the wake-up carries no data, the truth is in [`Runtime::status`].
//!
//! A command that cannot be started (missing, not executable, no such directory) is not a failure
//! of the runtime: the task ends with code 127 or 126 and a message. [`RuntimeError`] is for what
//! keeps the runtime itself from working.

pub mod docker;
pub mod fake;
mod layout;
pub mod process;
pub(crate) mod procfs;
mod runtimes;
mod task;

use std::sync::Arc;
use std::time::Duration;

use convoke_model::{Health, TaskExit};
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::engine::{EngineError, create};

pub use docker::DockerRuntime;
pub use fake::FakeRuntime;
pub use layout::TaskDir;
pub(crate) use layout::{ContainerRecord, Started, TaskRecord};
pub use process::ProcessRuntime;
pub use runtimes::Runtimes;
pub use task::{Container, TaskKey, TaskSpec, working_dir};

/// A record that cannot be read, and what becomes of what it described.
pub(crate) const DAMAGED_RECORD: &str = "DamagedRecord";

/// Where a task is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskStatus {
    /// Being made: it runs soon, or nothing of it is left and it is not known any more.
    Starting,
    Running {
        /// 0 until it is known.
        pid: u32,
        /// `None` without a health check.
        health: Option<Health>,
        /// Somebody has paused its container.
        paused: bool,
    },
    /// The main process has ended; its descendants are being cleared away.
    Exited(TaskExit),
    /// No process of the task is left, and its output is complete.
    Ended(TaskExit),
}

impl TaskStatus {
    /// It runs, and no more is known of it; 0 for a pid that is not known either.
    pub const fn running(pid: u32) -> Self {
        Self::Running { pid, health: None, paused: false }
    }

    /// How the main process ended, if it has.
    pub fn exit(&self) -> Option<&TaskExit> {
        match self {
            Self::Starting | Self::Running { .. } => None,
            Self::Exited(exit) | Self::Ended(exit) => Some(exit),
        }
    }
}

/// What keeps a runtime from doing what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("task {0} is known already; stop and remove it first")]
    Exists(TaskKey),
    #[error("task {0} is not known to this runtime")]
    Unknown(TaskKey),
    #[error("task {0} still has processes; stop it and wait until it has ended")]
    StillRunning(TaskKey),
    #[error("task {0} was asked to end before it had started")]
    Unwanted(TaskKey),
    /// It may work later, or on another node.
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("the shim of task {task} did not start it: {problem}")]
    Shim { task: TaskKey, problem: String },
    #[error("this agent runs no containers; start it with --docker-socket")]
    NoEngine,
    /// What is known of it: nothing before it was dialled.
    #[error("the Docker Engine is not there{}", .0.as_ref().map_or(String::new(), |error| format!(": {error}")))]
    Away(Option<Arc<EngineError>>),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Create(#[from] create::CreateError),
    #[error(
        "port {port} of this node is taken ({problem}); end what listens there (ss -ltnp shows it), or publish another port"
    )]
    PortTaken { port: String, problem: String },
}

/// A way to run tasks on this node. All verbs are idempotent towards their goal.
pub trait Runtime: Send + Sync + 'static {
    /// Finds the tasks that an earlier agent left, running or ended, and watches them again. Call
    /// once, before any other verb.
    fn recover(&self) -> BoxFuture<'_, Result<Vec<TaskKey>, RuntimeError>>;

    /// Starts a task; returns once it runs, or once it is known why it never will (its status is
    /// then an exit with code 126 or 127). Given up half-way it goes on: the task is known as starting until it
    /// runs, or until nothing of it is left.
    fn start(&self, task: TaskSpec) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Asks a task to end: its stop signal, `grace`, then SIGKILL to all that is left. Returns once
    /// the request is delivered. A second call with a shorter grace brings the end forward; a call
    /// for a task that has ended does nothing, and one that is starting ends as soon as it can.
    fn stop(&self, task: &TaskKey, grace: Duration) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// Forgets an ended task and deletes what is kept of it, output included.
    fn remove(&self, task: &TaskKey) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// The task's status now; `None` if it is not known.
    fn status(&self, task: &TaskKey) -> Option<TaskStatus>;

    /// Every task that is known.
    fn tasks(&self) -> Vec<TaskKey>;

    /// Changes whenever a status does.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Where the task's files are. Its output is the spool in [`TaskDir::output`].
    fn task_dir(&self, task: &TaskKey) -> TaskDir;
}

/// Waits until `task` has ended and returns how; `None` if it is not known. Bound it with a timeout.
pub async fn ended(runtime: &dyn Runtime, task: &TaskKey) -> Option<TaskExit> {
    let mut changes = runtime.changes();
    loop {
        changes.mark_unchanged();
        match runtime.status(task)? {
            TaskStatus::Ended(exit) => return Some(exit),
            TaskStatus::Starting | TaskStatus::Running { .. } | TaskStatus::Exited(_) => {
                changes.changed().await.ok()?;
            }
        }
    }
}

fn io_error(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> RuntimeError {
    let what = what.into();
    move |source| RuntimeError::Io { what, source }
}

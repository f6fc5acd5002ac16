//! Tasks as containers of the node's Docker Engine.
//!
//! The engine owns a container's processes, its exit code and its output, so the agent may die and come
//! back; so may the engine. Each task is followed by one future: it waits for the container's end, drains
//! its log into the task's spool meanwhile, and kills it when a requested stop is due. Nothing is removed
//! by the engine itself, so a wait that begins after the end still finds it.
//!
//! While the engine is away the node has the condition `DockerDown`, and its tasks keep the status that
//! they had: nobody knows better. Containers that are not this agent's by their labels are not touched.

mod describe;
mod exit;
mod labels;
mod logs;
mod name;
mod presence;
mod recover;
mod remove;
mod start;
mod stop;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use convoke_model::{AgentInstance, GpuInjection, Health};
use futures::future::BoxFuture;
use tokio::sync::watch as channel;
use tokio::time::Instant;

use self::presence::Presence;
use super::{Runtime, RuntimeError, TaskDir, TaskKey, TaskSpec, TaskStatus};
use crate::conditions::Conditions;
use crate::engine::RefusedUlimits;
use crate::engine::images::{Images, Policy};

pub use describe::Described;
pub use presence::Reached;

/// How the Docker runtime is set up.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// Holds one directory per task.
    pub tasks_dir: PathBuf,
    pub socket: PathBuf,
    /// Made once the engine was there.
    pub seen_file: PathBuf,
    /// How containers get GPUs, instead of what is found.
    pub gpu_injection: Option<GpuInjection>,
    /// Whose containers they are: several agents may share an engine.
    pub instance: AgentInstance,
    /// Bytes of output kept per task until it is removed.
    pub output_limit: u64,
    pub conditions: Conditions,
    /// Where it is written down which images were fetched for jobs.
    pub images_file: PathBuf,
    pub image_policy: Policy,
}

/// Runs tasks as containers. Clones are handles of the same runtime.
#[derive(Clone)]
pub struct DockerRuntime {
    shared: Arc<Shared>,
}

struct Shared {
    config: DockerConfig,
    presence: Presence,
    /// Made when the engine is first there: one book of what was fetched, whatever becomes of the engine.
    images: OnceLock<Images>,
    refused_ulimits: RefusedUlimits,
    tasks: Mutex<BTreeMap<TaskKey, Known>>,
    changes: channel::Sender<u64>,
}

/// A task, from the moment that its start begins.
struct Known {
    status: TaskStatus,
    /// The container's name until it is made, then its id.
    container: String,
    stop_signal: i32,
    /// It was asked to end.
    stopped: bool,
    /// When a requested stop becomes SIGKILL.
    kill_at: channel::Sender<Option<Instant>>,
}

impl DockerRuntime {
    /// Begins to look for the engine, and goes on looking for as long as the process lives. Needs a
    /// Tokio runtime.
    pub fn new(config: DockerConfig) -> Self {
        let shared = Arc::new(Shared {
            config,
            presence: Presence::default(),
            images: OnceLock::new(),
            refused_ulimits: RefusedUlimits::default(),
            tasks: Mutex::default(),
            changes: channel::Sender::new(0),
        });
        tokio::spawn(presence::keep(shared.clone()));
        Self { shared }
    }

    /// Whose containers these are, by the id of the agent's state directory.
    pub fn instance(&self) -> &str {
        self.shared.config.instance.as_str()
    }

    /// A known task's container: its name until it is made, then its id.
    pub fn container(&self, task: &TaskKey) -> Option<String> {
        self.shared.tasks().get(task).map(|known| known.container.clone())
    }

    /// The engine, if it answers now.
    pub fn reached(&self) -> Result<Arc<Reached>, RuntimeError> {
        self.shared.presence.now()
    }

    /// The engine; one that was not dialled yet is waited for until it answers or fails to, for at most
    /// `patience`.
    pub async fn reach(&self, patience: Duration) -> Result<Arc<Reached>, RuntimeError> {
        let mut presence = self.shared.presence.subscribe();
        let known = presence.wait_for(|state| !matches!(state, presence::State::Unknown));
        // Whatever came of it is what there is.
        let _ = tokio::time::timeout(patience, known).await;
        self.reached()
    }

    /// Wakes whoever holds it when the engine comes or goes.
    pub fn presence(&self) -> channel::Receiver<presence::State> {
        self.shared.presence.subscribe()
    }
}

impl Shared {
    fn tasks(&self) -> MutexGuard<'_, BTreeMap<TaskKey, Known>> {
        self.tasks.lock().expect("nothing panics while holding it")
    }

    fn dir(&self, task: &TaskKey) -> TaskDir {
        TaskDir::new(self.config.tasks_dir.join(task.to_string()))
    }

    /// A task that was removed meanwhile stays removed.
    fn set(&self, task: &TaskKey, status: TaskStatus) {
        let mut tasks = self.tasks();
        let Some(known) = tasks.get_mut(task) else { return };
        if known.status == status {
            return;
        }
        known.status = status;
        drop(tasks);
        self.changes.send_modify(|n| *n += 1);
    }

    /// A task runs; false if it was asked to end before.
    fn set_started(&self, task: &TaskKey) -> bool {
        let mut tasks = self.tasks();
        let Some(known) = tasks.get_mut(task).filter(|known| !known.stopped) else { return false };
        known.status = TaskStatus::running(0);
        drop(tasks);
        self.changes.send_modify(|n| *n += 1);
        true
    }

    fn set_health(&self, task: &TaskKey, seen: Health) {
        if let Some(Known { status: TaskStatus::Running { health, .. }, .. }) = self.tasks().get_mut(task) {
            *health = Some(seen);
            self.changes.send_modify(|n| *n += 1);
        }
    }

    fn set_paused(&self, task: &TaskKey, seen: bool) {
        if let Some(Known { status: TaskStatus::Running { paused, .. }, .. }) = self.tasks().get_mut(task)
            && *paused != seen
        {
            *paused = seen;
            self.changes.send_modify(|n| *n += 1);
        }
    }

    /// It was asked to end.
    fn is_stopped(&self, task: &TaskKey) -> bool {
        self.tasks().get(task).is_some_and(|known| known.stopped)
    }

    fn forget(&self, task: &TaskKey) {
        self.tasks().remove(task);
        self.changes.send_modify(|n| *n += 1);
    }
}

impl Runtime for DockerRuntime {
    fn recover(&self) -> BoxFuture<'_, Result<Vec<TaskKey>, RuntimeError>> {
        Box::pin(self.recover_all())
    }

    fn start(&self, task: TaskSpec) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(self.start_one(task))
    }

    fn stop(&self, task: &TaskKey, grace: Duration) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let task = task.clone();
        Box::pin(async move { self.stop_one(&task, grace).await })
    }

    fn remove(&self, task: &TaskKey) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let task = task.clone();
        Box::pin(async move { self.remove_one(&task).await })
    }

    fn status(&self, task: &TaskKey) -> Option<TaskStatus> {
        self.shared.tasks().get(task).map(|known| known.status.clone())
    }

    fn tasks(&self) -> Vec<TaskKey> {
        self.shared.tasks().keys().cloned().collect()
    }

    fn changes(&self) -> channel::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn task_dir(&self, task: &TaskKey) -> TaskDir {
        self.shared.dir(task)
    }
}

//! Tasks as processes of the host, each under a shim that outlives the agent.
//!
//! The agent is never a task's parent, so a task it started and one it found again are watched in
//! the same way: by descriptors of the main process and of the shim (no polling while a task runs),
//! then by the exit record, then by the shim's lock. A shim that died without an exit record leaves
//! an exit of unknown status, which this runtime then records itself. `Ended` means that two scans
//! of the host found no process with the task's marker.

mod recover;
mod start;
mod watch;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch as channel;

use super::{Runtime, RuntimeError, TaskDir, TaskKey, TaskSpec, TaskStatus, io_error};
use crate::conditions::Conditions;

/// How the process runtime is set up.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// Holds one directory per task.
    pub tasks_dir: PathBuf,
    /// The program whose `shim` subcommand owns a task: this agent's own.
    pub shim: PathBuf,
    /// Passed to the shims: they and their tasks end when its lock is released.
    pub lifeline: Option<PathBuf>,
    /// Bytes of output kept per task until it is removed; at least 16 MiB are.
    pub output_limit: u64,
    pub conditions: Conditions,
}

/// Kept per task by default: about half a million lines, an hour of a talkative trainer with the
/// coordinator away.
pub const OUTPUT_LIMIT: u64 = 64 << 20;

/// Runs tasks as host processes. Clones are handles of the same runtime.
#[derive(Clone)]
pub struct ProcessRuntime {
    shared: Arc<Shared>,
}

struct Shared {
    config: ProcessConfig,
    tasks: Mutex<BTreeMap<TaskKey, Known>>,
    changes: channel::Sender<u64>,
}

/// A task, from the moment that its start begins.
struct Known {
    status: TaskStatus,
    /// It was asked to end, with that grace, before it ran.
    unwanted: Option<Duration>,
}

impl Known {
    fn of(status: TaskStatus) -> Self {
        Self { status, unwanted: None }
    }
}

impl ProcessRuntime {
    /// Needs a Tokio runtime from `recover` on.
    pub fn new(config: ProcessConfig) -> Self {
        let changes = channel::Sender::new(0);
        Self { shared: Arc::new(Shared { config, tasks: Mutex::default(), changes }) }
    }

    fn dir(&self, task: &TaskKey) -> TaskDir {
        TaskDir::new(self.shared.config.tasks_dir.join(task.to_string()))
    }
}

impl Shared {
    fn tasks(&self) -> MutexGuard<'_, BTreeMap<TaskKey, Known>> {
        self.tasks.lock().expect("nothing panics while holding it")
    }

    /// A task that was removed meanwhile stays removed.
    fn set(&self, task: &TaskKey, status: TaskStatus) {
        if let Some(known) = self.tasks().get_mut(task) {
            known.status = status;
        }
        self.changes.send_modify(|n| *n += 1);
    }

    fn forget(&self, task: &TaskKey) {
        self.tasks().remove(task);
        self.changes.send_modify(|n| *n += 1);
    }
}

impl Runtime for ProcessRuntime {
    fn recover(&self) -> BoxFuture<'_, Result<Vec<TaskKey>, RuntimeError>> {
        Box::pin(self.recover_all())
    }

    fn start(&self, task: TaskSpec) -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(self.start_one(task))
    }

    fn stop(&self, task: &TaskKey, grace: Duration) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let result = match self.status(task) {
            None => Err(RuntimeError::Unknown(task.clone())),
            Some(TaskStatus::Ended(_)) => Ok(()),
            Some(TaskStatus::Starting) => {
                if let Some(known) = self.shared.tasks().get_mut(task) {
                    known.unwanted = Some(known.unwanted.map_or(grace, |before| before.min(grace)));
                }
                Ok(())
            }
            Some(TaskStatus::Running { .. } | TaskStatus::Exited(_)) => {
                request(&self.dir(task), &format!("stop {}\n", grace.as_millis()))
                    .map_err(io_error(format!("asking the shim of {task} to stop it")))
            }
        };
        Box::pin(std::future::ready(result))
    }

    fn remove(&self, task: &TaskKey) -> BoxFuture<'_, Result<(), RuntimeError>> {
        let result = match self.status(task) {
            None => Err(RuntimeError::Unknown(task.clone())),
            Some(TaskStatus::Ended(_)) => fs::remove_dir_all(self.dir(task).path())
                .map(|()| self.shared.forget(task))
                .map_err(io_error(format!("removing the directory of {task}"))),
            Some(TaskStatus::Starting | TaskStatus::Running { .. } | TaskStatus::Exited(_)) => {
                Err(RuntimeError::StillRunning(task.clone()))
            }
        };
        Box::pin(std::future::ready(result))
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
        self.dir(task)
    }
}

/// Sends a line to a task's shim. A shim that is gone needs no asking: its task goes with it.
fn request(dir: &TaskDir, line: &str) -> io::Result<()> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let control = fs::OpenOptions::new().write(true).custom_flags(nonblocking).open(dir.control());
    match control {
        Ok(mut control) => control.write_all(line.as_bytes()),
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => Ok(()),
        Err(e) => Err(e),
    }
}

//! What runs beside each started task for as long as the agent knows it: the push of its lines, the
//! watches over its checkpoints and over what it uses, and its trainer socket.

use std::sync::Arc;

use convoke_model::{Condition, Rank, Shards};
use tokio::task::JoinSet;
use tracing::warn;

use crate::checkpoint::{Watch, Watcher};
use crate::files::owed::Owed;
use crate::host::Host;
use crate::ledger::Record;
use crate::runtime::TaskKey;
use crate::socket::{Socket, World};
use crate::telemetry::{Kind, Push};
use crate::usage;
use crate::work::{TaskPaths, about, checkpoints};

/// Dropping it ends all of them.
pub struct TaskServices {
    host: Arc<Host>,
    task: TaskKey,
    pushes: JoinSet<()>,
    /// `None` for a task that writes no checkpoints, or has none left to store.
    checkpoints: Option<Watch>,
    _watching: JoinSet<()>,
    usage: usage::Watch,
    _socket: Option<Socket>,
}

impl TaskServices {
    /// Opens them before the task starts, or when it is taken over.
    pub fn open(host: &Arc<Host>, record: &Record, rank: Rank) -> Self {
        let task = TaskKey { replica: record.desired.key(), rank };
        let mut pushes = JoinSet::new();
        for kind in [Kind::Output, Kind::Metrics] {
            pushes.spawn(Push::new(host.clone(), task.clone(), kind).run());
        }
        let mut watching = JoinSet::new();
        let policy = &record.desired.spec.checkpoint;
        let writes = policy.shards == Shards::All || rank == Rank(0);
        let checkpoints = (writes && !record.ended).then(|| {
            let directory = checkpoints(host, &record.desired, record.inside.as_ref(), rank).host;
            // What lies in a directory of the user's is the user's to delete.
            let keep = policy.dir.is_none().then_some(policy.keep as usize);
            let (watch, watcher) = Watcher::new(host.clone(), task.clone(), directory, keep);
            watching.spawn(watcher.run());
            watch
        });
        let usage = usage::Watch::default();
        if !record.ended {
            let own = record.desired.spec.image.is_some();
            watching.spawn(usage.clone().run(host.runtime.clone(), task.clone(), own));
        }
        let socket = (!record.ended).then(|| open_socket(host, record, &task, checkpoints.clone())).flatten();
        Self { host: host.clone(), task, pushes, checkpoints, _watching: watching, usage, _socket: socket }
    }

    /// What the task uses while it runs.
    pub fn usage(&self) -> usage::Watch {
        self.usage.clone()
    }

    /// Resolves when every finished checkpoint is stored, or will not be soon.
    pub fn drain_checkpoints(&self) -> impl Future<Output = ()> + Send + use<> {
        let (host, task, checkpoints) = (self.host.clone(), self.task.clone(), self.checkpoints.clone());
        async move {
            let Some(checkpoints) = checkpoints else { return };
            tokio::select! {
                () = checkpoints.drained() => {}
                () = checkpoints.motion.stuck(host.link.there(), host.files.patience()) => {
                    keep(&host, &task, &checkpoints);
                }
            }
        }
    }

    /// Resolves when every line is acknowledged or unwanted.
    pub async fn telemetry_done(mut self) {
        // What never was started has no lines, and no end to wait for.
        if self.host.runtime.status(&self.task).is_some() {
            while self.pushes.join_next().await.is_some() {}
        }
    }
}

/// The next generation starts from an older one; what is not stored stays with the replica's directory.
fn keep(host: &Host, task: &TaskKey, checkpoints: &Watch) {
    let replica = &task.replica;
    let mut message = format!(
        "a checkpoint of {task} is not stored although its task has ended; it is in {} on node {}",
        checkpoints.directory, host.node
    );
    match Owed::Checkpoint(task.rank).mark(&host.home.replica_dir(replica)) {
        Ok(()) => message.push_str(", and is kept as the job's files are (--keep-files)"),
        Err(error) => warn!(%task, "{error}; its checkpoint goes with its replica"),
    }
    host.warnings.raise(Condition::CHECKPOINT_NOT_STORED, &about(replica), message);
}

/// A task can train without its socket, so a failure is a condition and not the task's end.
fn open_socket(
    host: &Arc<Host>,
    record: &Record,
    task: &TaskKey,
    checkpoints: Option<Watch>,
) -> Option<Socket> {
    let rendezvous = record.rendezvous.clone()?;
    let (desired, inside) = (record.desired.clone(), record.inside.as_ref());
    let paths = TaskPaths::of(host, &desired, inside, record.resume.as_deref(), task.rank);
    let world = World { desired, rendezvous, paths, contained: inside.is_some() };
    let opened = Socket::open(host, task, world, checkpoints);
    let failed = |error| {
        let message = format!("the trainer socket of {task} cannot be opened: {error}");
        host.conditions.raise("TrainerSocketFailed", &task.to_string(), message);
    };
    opened.map_err(failed).ok()
}

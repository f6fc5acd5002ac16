//! A runtime without processes: the command itself orders what happens.
//!
//! Each word of the argument vector is a step, taken in order:
//!
//! | step | what the task does |
//! |---|---|
//! | `run=3s` | runs so long |
//! | `print=text` | says a line |
//! | `exit=1`, `signal=9` | ends so; at the end of the steps it ends with code 0 |
//! | `hang` | runs until it is stopped |
//! | `deaf` | from here on ignores the stop signal, so that only SIGKILL ends it |
//! | `refuse=why` | as first step: it cannot be started (code 126) |
//!
//! Its output is a real spool; the tasks themselves do not outlive the agent.

mod script;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use convoke_model::{ExitStatus, TaskExit};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

use self::script::Step;
use super::{Runtime, RuntimeError, TaskDir, TaskKey, TaskSpec, TaskStatus, io_error};
use crate::clock;
use crate::spool::{Source, Writer};

/// Bytes of output kept per task: the spool's least.
const OUTPUT_LIMIT: u64 = 0;

/// Plays tasks. Clones are handles of the same runtime.
#[derive(Clone)]
pub struct FakeRuntime {
    shared: Arc<Shared>,
}

struct Shared {
    tasks_dir: PathBuf,
    tasks: Mutex<BTreeMap<TaskKey, Task>>,
    changes: watch::Sender<u64>,
}

struct Task {
    status: TaskStatus,
    /// When a requested stop becomes SIGKILL.
    kill_at: watch::Sender<Option<Instant>>,
}

impl FakeRuntime {
    /// `tasks_dir` holds the spools of what the tasks print.
    pub fn new(tasks_dir: PathBuf) -> Self {
        let changes = watch::Sender::new(0);
        Self { shared: Arc::new(Shared { tasks_dir, tasks: Mutex::default(), changes }) }
    }

    fn start_now(&self, spec: TaskSpec) -> Result<(), RuntimeError> {
        let key = spec.key;
        if self.shared.tasks().contains_key(&key) {
            return Err(RuntimeError::Exists(key));
        }
        let spool = Writer::create(&self.task_dir(&key).output(), OUTPUT_LIMIT)
            .map_err(io_error(format!("making the output of {key}")))?;
        let (kill_at, stop) = watch::channel(None);
        let pid = 0;
        self.shared.tasks().insert(key.clone(), Task { status: TaskStatus::running(pid), kill_at });
        match script::parse(&spec.argv) {
            Ok(steps) => drop(tokio::spawn(self.shared.clone().play(key, steps, spool, stop))),
            Err(script::Unplayable { code, message }) => {
                self.shared.end(&key, spool, ExitStatus::Code(code), Some(message));
            }
        }
        Ok(())
    }

    fn stop_now(&self, task: &TaskKey, grace: Duration) -> Result<(), RuntimeError> {
        let tasks = self.shared.tasks();
        let known = tasks.get(task).ok_or_else(|| RuntimeError::Unknown(task.clone()))?;
        let at = Instant::now() + grace.min(Duration::from_secs(10 * 365 * 24 * 3600));
        known.kill_at.send_modify(|before| *before = Some(before.map_or(at, |before| before.min(at))));
        Ok(())
    }

    fn remove_now(&self, task: &TaskKey) -> Result<(), RuntimeError> {
        match self.status(task) {
            None => return Err(RuntimeError::Unknown(task.clone())),
            Some(TaskStatus::Ended(_)) => {}
            Some(TaskStatus::Starting | TaskStatus::Running { .. } | TaskStatus::Exited(_)) => {
                return Err(RuntimeError::StillRunning(task.clone()));
            }
        }
        fs::remove_dir_all(self.task_dir(task).path())
            .map_err(io_error(format!("removing the directory of {task}")))?;
        self.shared.tasks().remove(task);
        self.shared.changes.send_modify(|n| *n += 1);
        Ok(())
    }
}

impl Shared {
    fn tasks(&self) -> MutexGuard<'_, BTreeMap<TaskKey, Task>> {
        self.tasks.lock().expect("nothing panics while holding it")
    }

    async fn play(
        self: Arc<Self>,
        key: TaskKey,
        steps: Vec<Step>,
        mut spool: Writer,
        mut stop: watch::Receiver<Option<Instant>>,
    ) {
        let mut deaf = false;
        let mut status = ExitStatus::Code(0);
        for step in steps {
            let wait = match step {
                Step::Print(text) => {
                    spool.push(clock::now(), Source::Stdout, text.as_bytes());
                    spool.flush();
                    continue;
                }
                Step::Deaf => {
                    deaf = true;
                    continue;
                }
                Step::End(end) => {
                    status = end;
                    break;
                }
                Step::Run(duration) => tokio::time::sleep(duration).left_future(),
                Step::Hang => std::future::pending().right_future(),
            };
            tokio::select! {
                () = wait => {}
                signal = ended_by(&mut stop, deaf) => {
                    status = ExitStatus::Signal(signal);
                    break;
                }
            }
        }
        self.end(&key, spool, status, None);
    }

    fn end(&self, key: &TaskKey, spool: Writer, status: ExitStatus, message: Option<String>) {
        if let Err(error) = spool.finish() {
            tracing::warn!(task = %key, %error, "cannot finish a fake task's output");
        }
        if let Some(task) = self.tasks().get_mut(key) {
            let stopped = task.kill_at.borrow().is_some();
            task.status =
                TaskStatus::Ended(TaskExit { stopped, message, ..TaskExit::new(status, clock::now()) });
        }
        self.changes.send_modify(|n| *n += 1);
    }
}

/// Waits for the signal that ends a task: SIGTERM at once, or SIGKILL after the grace.
async fn ended_by(stop: &mut watch::Receiver<Option<Instant>>, deaf: bool) -> i32 {
    loop {
        let kill_at = *stop.borrow_and_update();
        match kill_at {
            Some(_) if !deaf => return 15,
            Some(at) => tokio::select! {
                () = tokio::time::sleep_until(at) => return 9,
                Ok(()) = stop.changed() => {}
            },
            None => {
                if stop.changed().await.is_err() {
                    return 9; // The runtime is gone, and its tasks with it.
                }
            }
        }
    }
}

impl Runtime for FakeRuntime {
    fn recover(&self) -> BoxFuture<'_, Result<Vec<TaskKey>, RuntimeError>> {
        std::future::ready(Ok(Vec::new())).boxed()
    }

    fn start(&self, task: TaskSpec) -> BoxFuture<'_, Result<(), RuntimeError>> {
        async move { self.start_now(task) }.boxed()
    }

    fn stop(&self, task: &TaskKey, grace: Duration) -> BoxFuture<'_, Result<(), RuntimeError>> {
        std::future::ready(self.stop_now(task, grace)).boxed()
    }

    fn remove(&self, task: &TaskKey) -> BoxFuture<'_, Result<(), RuntimeError>> {
        std::future::ready(self.remove_now(task)).boxed()
    }

    fn status(&self, task: &TaskKey) -> Option<TaskStatus> {
        self.shared.tasks().get(task).map(|known| known.status.clone())
    }

    fn tasks(&self) -> Vec<TaskKey> {
        self.shared.tasks().keys().cloned().collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    fn task_dir(&self, task: &TaskKey) -> TaskDir {
        TaskDir::new(self.shared.tasks_dir.join(task.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use convoke_model::{Generation, JobId, NodeId, NodeRank, Rank, ReplicaKey};

    use super::super::ended;
    use super::*;
    use crate::spool::Reader;

    async fn started(words: &[&str]) -> (tempfile::TempDir, FakeRuntime, TaskKey) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = FakeRuntime::new(dir.path().to_owned());
        let job = JobId::new("job-1").unwrap();
        let replica = ReplicaKey { job, generation: Generation(1), node_rank: NodeRank(0) };
        let key = TaskKey { replica, rank: Rank(0) };
        let spec = TaskSpec {
            key: key.clone(),
            node: NodeId::new("node-a").unwrap(),
            argv: words.iter().map(|w| (*w).to_owned()).collect(),
            environment: BTreeMap::new(),
            working_dir: "/".into(),
            stop_signal: 15,
            container: None,
        };
        runtime.start(spec).await.unwrap();
        (dir, runtime, key)
    }

    #[tokio::test]
    async fn a_task_can_order_a_while_and_then_a_failure() {
        let (_dir, runtime, key) = started(&["print=hello", "run=20ms", "exit=1"]).await;
        let exit = ended(&runtime, &key).await.unwrap();
        assert_eq!((exit.status, exit.stopped), (ExitStatus::Code(1), false));
        let batch = Reader::new(runtime.task_dir(&key).output(), 0).read(100).unwrap();
        assert!(batch.ended && batch.lines[0].text == "hello");
        runtime.remove(&key).await.unwrap();
        assert_eq!(runtime.status(&key), None);
    }

    #[tokio::test]
    async fn a_hanging_task_ends_with_sigterm_and_a_deaf_one_with_sigkill_after_its_grace() {
        for (words, signal) in [(vec!["hang"], 15), (vec!["deaf", "hang"], 9)] {
            let (_dir, runtime, key) = started(&words).await;
            assert!(matches!(runtime.remove(&key).await, Err(RuntimeError::StillRunning(_))));
            runtime.stop(&key, Duration::from_millis(20)).await.unwrap();
            let exit = ended(&runtime, &key).await.unwrap();
            assert_eq!((exit.status, exit.stopped), (ExitStatus::Signal(signal), true));
        }
    }

    #[tokio::test]
    async fn a_task_can_refuse_to_start_and_an_unknown_step_is_named() {
        let (_dir, runtime, key) = started(&["refuse=no driver"]).await;
        let exit = ended(&runtime, &key).await.unwrap();
        assert_eq!((exit.status, exit.message.as_deref()), (ExitStatus::Code(126), Some("no driver")));
        let (_dir, runtime, key) = started(&["run=3 parsecs"]).await;
        let exit = ended(&runtime, &key).await.unwrap();
        assert_eq!(exit.status, ExitStatus::Code(127));
        assert!(exit.message.unwrap().contains("\"run=3 parsecs\" is not a step"));
    }
}

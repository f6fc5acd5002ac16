//! Starting a task: its directory, its shim, and the shim's answer.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::super::layout::TaskRecord;
use super::super::procfs::{MARKER, kill_marked};
use super::super::{RuntimeError, TaskDir, TaskKey, TaskSpec, TaskStatus, io_error};
use super::{Known, ProcessRuntime, request};

/// A shim answers within milliseconds, or after this long (a disk that hangs) not at all.
const ANSWER: Duration = Duration::from_secs(30);

/// A shim that says it failed is gone within milliseconds.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a process cannot do without, taken from the agent's own environment where the task's does
/// not set it.
const INHERITED: [&str; 9] = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"];

impl ProcessRuntime {
    pub(super) async fn start_one(&self, spec: TaskSpec) -> Result<(), RuntimeError> {
        let key = spec.key.clone();
        if self.shared.tasks().contains_key(&key) {
            return Err(RuntimeError::Exists(key));
        }
        // Known before anything is waited for, and then in a task of its own: given up half-way it would leave a
        // shim of which nobody knows.
        self.shared.tasks().insert(key.clone(), Known::of(TaskStatus::Starting));
        let (runtime, failed) = (self.clone(), io_error(format!("starting {key}")));
        let starting = tokio::spawn(async move {
            let (dir, record) = (runtime.dir(&key), runtime.record(spec));
            let started = runtime.launch(&key, &dir, &record).await;
            if started.is_err() {
                runtime.give_up(&key, &dir, &record).await;
            }
            started
        });
        starting.await.map_err(|e| failed(io::Error::other(e)))?
    }

    /// Nothing of a failed start may be left, so that it can be tried again.
    async fn give_up(&self, key: &TaskKey, dir: &TaskDir, record: &TaskRecord) {
        let deadline = Instant::now() + FAREWELL;
        loop {
            match dir.try_lock() {
                // No shim is left, and none can start while this holds the lock.
                Ok(Some(_lock)) => {
                    kill_marked(&record.marker).ok();
                    fs::remove_dir_all(dir.path()).ok();
                    return self.shared.forget(key);
                }
                // The directory itself could not be made.
                Err(_) => return self.shared.forget(key),
                Ok(None) if Instant::now() < deadline => sleep(Duration::from_millis(5)).await,
                // A shim that hangs may start the task yet: known, so that it can be stopped.
                Ok(None) => {
                    self.shared.set(key, TaskStatus::running(0));
                    return self.watch(key.clone(), record.marker.clone());
                }
            }
        }
    }

    fn record(&self, spec: TaskSpec) -> TaskRecord {
        let inherited =
            INHERITED.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
        let mut environment: BTreeMap<String, String> = inherited.collect();
        environment.extend(spec.environment.clone());
        if let Some(own) = self.shared.config.shim.parent() {
            // A trainer installed next to the agent is found without further ado.
            let path = environment.entry("PATH".to_owned()).or_default();
            *path =
                if path.is_empty() { own.display().to_string() } else { format!("{path}:{}", own.display()) };
        }
        let marker = uuid::Uuid::new_v4().to_string();
        environment.insert(MARKER.to_owned(), marker.clone());
        TaskRecord { spec, environment, marker, output_limit: self.shared.config.output_limit }
    }

    async fn launch(&self, key: &TaskKey, dir: &TaskDir, record: &TaskRecord) -> Result<(), RuntimeError> {
        let what = || format!("preparing {} for {key}", dir.path().display());
        dir.create(record).map_err(io_error(what()))?;
        let answer = self.run_shim(dir).await.map_err(io_error(format!("starting the shim of {key}")))?;
        match answer.trim_end() {
            "started" | "ended" => {}
            problem => {
                let problem = match problem.strip_prefix("failed ") {
                    Some(problem) => problem.to_owned(),
                    None => format!("it gave no answer; {}", log(dir)),
                };
                return Err(RuntimeError::Shim { task: key.clone(), problem });
            }
        }
        let status = match dir.started().map_err(io_error(what()))? {
            Some(started) => TaskStatus::running(started.task.pid.cast_unsigned()),
            // It could not be started; the watcher finds the exit record and everything gone.
            None => match dir.exit().map_err(io_error(what()))? {
                Some(exit) => TaskStatus::Exited(exit),
                None => {
                    let problem = format!("it left no record; {}", log(dir));
                    return Err(RuntimeError::Shim { task: key.clone(), problem });
                }
            },
        };
        self.shared.set(key, status);
        self.watch(key.clone(), record.marker.clone());
        // Asked for after it is known to run: from then on requests reach its shim.
        let unwanted = self.shared.tasks().get(key).and_then(|known| known.unwanted);
        if let Some(grace) = unwanted {
            request(dir, &format!("stop {}\n", grace.as_millis())).map_err(io_error(what()))?;
        }
        Ok(())
    }

    /// The answer of the shim, which then stays behind in a session of its own.
    async fn run_shim(&self, dir: &TaskDir) -> io::Result<String> {
        let config = &self.shared.config;
        let mut command = Command::new(&config.shim);
        command.arg("shim").arg("--dir").arg(dir.path()).current_dir("/");
        if let Some(lifeline) = &config.lifeline {
            command.arg("--lifeline").arg(lifeline);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(dir.log()?);
        let output = timeout(ANSWER, command.spawn()?.wait_with_output()).await.map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", ANSWER.as_secs()))
        })??;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The shim's own last words, for a message.
fn log(dir: &TaskDir) -> String {
    let log = fs::read_to_string(dir.path().join("shim.log")).unwrap_or_default();
    match log.trim().lines().next_back() {
        Some(last) => format!("its log ends with: {last}"),
        None => "its log is empty".to_owned(),
    }
}

//! A host for tests: a process runtime on a directory of its own.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "clippy only knows test functions as tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use convoke_agent::conditions::Conditions;
use convoke_agent::runtime::process::{OUTPUT_LIMIT, ProcessConfig};
use convoke_agent::runtime::{ProcessRuntime, Runtime as _, TaskKey, TaskSpec, ended};
use convoke_agent::spool::{Line, Reader};
use convoke_model::{Generation, JobId, NodeId, NodeRank, Rank, ReplicaKey, TaskExit};
use tokio::time::{sleep, timeout};

/// Far more than anything here takes; a test that needs it has failed.
const DEADLINE: Duration = Duration::from_secs(60);

pub struct Host {
    dir: tempfile::TempDir,
    pub runtime: ProcessRuntime,
    lifeline: Option<PathBuf>,
}

pub fn agent_binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_convoke-agent"))
}

impl Host {
    pub fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap(), None)
    }

    pub fn with_lifeline(lifeline: &Path) -> Self {
        Self::at(tempfile::tempdir().unwrap(), Some(lifeline.to_owned()))
    }

    pub fn at(dir: tempfile::TempDir, lifeline: Option<PathBuf>) -> Self {
        let runtime = runtime(&dir.path().join("tasks"), agent_binary(), lifeline.clone());
        Self { dir, runtime, lifeline }
    }

    /// One whose shims do nothing before the file `go` is there.
    pub fn with_held_shims(go: &str) -> Self {
        let mut host = Self::new();
        let (shim, dir) = (host.path("shim"), host.dir.path().display().to_string());
        let wait = format!("until [ -e {dir}/{go} ] || [ ! -d {dir} ]; do sleep 0.01; done");
        let script = format!("#!/bin/sh\n{wait}\nexec {} \"$@\"\n", agent_binary().display());
        fs::write(&shim, script).unwrap();
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
        host.runtime = runtime(&host.path("tasks"), &shim, None);
        host
    }

    /// What a new agent on the same directory sees.
    pub async fn agent_restarts(&mut self) -> Vec<TaskKey> {
        self.runtime = runtime(&self.path("tasks"), agent_binary(), self.lifeline.clone());
        self.runtime.recover().await.unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn spec(&self, rank: u32, script: &str) -> TaskSpec {
        let job = JobId::new("job-1").unwrap();
        let replica = ReplicaKey { job, generation: Generation(1), node_rank: NodeRank(0) };
        TaskSpec {
            key: TaskKey { replica, rank: Rank(rank) },
            node: NodeId::new("node-a").unwrap(),
            argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            environment: BTreeMap::new(),
            working_dir: self.dir.path().to_owned(),
            stop_signal: 15,
            container: None,
        }
    }

    pub async fn start(&self, rank: u32, script: &str) -> TaskKey {
        let spec = self.spec(rank, script);
        let task = spec.key.clone();
        self.runtime.start(spec).await.unwrap();
        task
    }

    pub async fn run(&self, spec: TaskSpec) -> TaskExit {
        let task = spec.key.clone();
        self.runtime.start(spec).await.unwrap();
        self.ended(&task).await
    }

    pub async fn ended(&self, task: &TaskKey) -> TaskExit {
        timeout(DEADLINE, ended(&self.runtime, task)).await.expect("the task ends").expect("it is known")
    }

    /// All lines of a task that has ended.
    pub fn lines(&self, task: &TaskKey) -> Vec<Line> {
        let batch = Reader::new(self.runtime.task_dir(task).output(), 0).read(usize::MAX).unwrap();
        assert!(batch.ended);
        batch.lines
    }

    /// Waits until the task has said `text`.
    pub async fn until_line(&self, task: &TaskKey, text: &str) {
        let mut reader = Reader::new(self.runtime.task_dir(task).output(), 0);
        let said = async {
            while !reader.read(usize::MAX).unwrap().lines.iter().any(|l| l.text == text) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, said).await.expect("the task says it");
    }

    /// The shim's process id, as its record has it.
    pub fn shim(&self, task: &TaskKey) -> i32 {
        let record = self.runtime.task_dir(task).path().join("started.json");
        let record: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
        record["shim"]["pid"].as_i64().unwrap().try_into().unwrap()
    }
}

impl Drop for Host {
    /// A failing test leaves nothing behind either.
    fn drop(&mut self) {
        let Ok(entries) = fs::read_dir(self.path("tasks")) else { return };
        for entry in entries.filter_map(Result::ok) {
            if let Ok(mut control) =
                fs::OpenOptions::new().read(true).write(true).open(entry.path().join("control"))
            {
                std::io::Write::write_all(&mut control, b"stop 0\n").ok();
            }
        }
    }
}

fn runtime(tasks_dir: &Path, shim: &Path, lifeline: Option<PathBuf>) -> ProcessRuntime {
    ProcessRuntime::new(ProcessConfig {
        tasks_dir: tasks_dir.to_owned(),
        shim: shim.to_owned(),
        lifeline,
        output_limit: OUTPUT_LIMIT / 4,
        conditions: Conditions::default(),
    })
}

pub fn is_there(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

pub fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Processes `sleep <n>` of one of these numbers, which only the calling test uses.
pub fn sleepers(numbers: &[&str]) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = command.split(|b| *b == 0).collect();
        if words[0].ends_with(b"sleep") && numbers.iter().any(|n| words.get(1) == Some(&n.as_bytes())) {
            found.push(entry.file_name().to_str().unwrap().parse().unwrap());
        }
    }
    found
}

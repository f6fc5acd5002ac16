//! An agent's process and the place that it works in.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::DEADLINE;

/// A state directory, and a lifeline: when the test ends, however it does, so do its processes.
pub struct Site {
    pub directory: tempfile::TempDir,
    lifeline: Option<File>,
}

impl Site {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let lifeline = File::create(directory.path().join("lifeline")).unwrap();
        lifeline.lock().unwrap();
        Self { directory, lifeline: Some(lifeline) }
    }

    /// What happens to the agents when their test ends, however it does.
    pub fn let_go(&mut self) {
        self.lifeline = None;
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// An agent of four CPU slots that runs host processes.
    pub fn agent(&self, coordinator: &str) -> Agent {
        self.agent_with(coordinator, &["--no-docker"])
    }

    /// One with more to its command line.
    pub fn agent_with(&self, coordinator: &str, more: &[&str]) -> Agent {
        let log = File::options().create(true).append(true).open(self.path("agent.log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_convoke-agent"))
            .args(["--coordinator", coordinator, "--node", "n1", "--cpu-slots", "4", "--allow-processes"])
            .args(["--advertise-address", "127.0.0.1", "--label", "zone=a"])
            .arg("--state-dir")
            .arg(self.state())
            .arg("--lifeline")
            .arg(self.path("lifeline"))
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Agent { child }
    }

    /// What the agents of this site logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }
}

pub struct Agent {
    child: Child,
}

impl Agent {
    /// kill -9 of the agent alone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As a service manager would for an upgrade.
    pub async fn terminate(self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.exited().await
    }

    pub async fn exited(mut self) -> ExitStatus {
        let waiting = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, waiting).await.expect("the agent did not end")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

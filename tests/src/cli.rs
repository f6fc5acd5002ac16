//! The `convoke` command line as a user runs it.

use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::{LocalCluster, binary, process};

/// A command may train a network on a busy machine.
const COMMAND_DEADLINE: Duration = Duration::from_secs(300);

/// A command line to run.
#[derive(Debug)]
pub struct Cli(Command);

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A command that runs; its stdout is read by line.
#[derive(Debug)]
pub struct RunningCli {
    child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    read: Vec<String>,
}

impl LocalCluster {
    /// `convoke` with these arguments, told of this cluster's coordinator, with a cache of its own.
    pub fn cli(&self, args: &[&str]) -> Cli {
        let cache = self.directory().join("cache").display().to_string();
        Cli::new(args)
            .variable("CONVOKE_COORDINATOR", &self.url())
            .variable("XDG_CACHE_HOME", &cache)
            .directory(self.directory())
    }
}

impl Cli {
    pub fn new(args: &[&str]) -> Self {
        let mut command = Command::new(binary("convoke"));
        command.args(args).env_remove("CONVOKE_COORDINATOR").env_remove("CONVOKE_OUTPUT");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Self(command)
    }

    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    pub fn directory(mut self, directory: &Path) -> Self {
        self.0.current_dir(directory);
        self
    }

    /// Runs it to its end.
    pub async fn run(mut self) -> Finished {
        let output = tokio::time::timeout(COMMAND_DEADLINE, self.0.output()).await;
        output
            .unwrap_or_else(|_| panic!("{:?} did not end within {COMMAND_DEADLINE:?}", self.0))
            .expect("convoke can be started")
            .into()
    }

    pub fn start(mut self) -> RunningCli {
        let mut child = self.0.spawn().expect("convoke can be started");
        let stdout = child.stdout.take().expect("it is piped");
        RunningCli { child, lines: BufReader::new(stdout).lines(), read: Vec::new() }
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Finished {
    /// Asserts the exit code.
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.status.code(),
            Some(code),
            "{}\n--- stdout\n{}\n--- stderr\n{}",
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// The one JSON document on stdout.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("not one JSON document ({e}):\n{}\n{}", self.stdout, self.stderr))
    }

    /// Every line of stdout as a JSON object.
    pub fn json_lines(&self) -> Vec<Value> {
        json_lines(self.stdout.lines())
    }

    /// The `error` object that a failed command with `--output json` ends with on stderr.
    pub fn json_error(&self) -> Value {
        let last = self.stderr.lines().last().unwrap_or_default();
        let value: Value = serde_json::from_str(last)
            .unwrap_or_else(|e| panic!("stderr does not end with JSON ({e}):\n{}", self.stderr));
        value["error"].clone()
    }
}

fn json_lines<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
    lines.map(parse).collect()
}

impl RunningCli {
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub fn signal(&self, signal: Signal) {
        process::signal_pid(self.pid(), signal);
    }

    /// Reads stdout until a line contains `text`.
    pub async fn line(&mut self, text: &str) -> String {
        let read = async {
            while let Some(line) = self.lines.next_line().await.expect("stdout can be read") {
                self.read.push(line.clone());
                if line.contains(text) {
                    return line;
                }
            }
            panic!("stdout ended without \"{text}\":\n{}", self.read.join("\n"))
        };
        tokio::time::timeout(COMMAND_DEADLINE, read)
            .await
            .unwrap_or_else(|_| panic!("no \"{text}\" on stdout within {COMMAND_DEADLINE:?}"))
    }

    /// Waits for its end; what [`RunningCli::line`] read is part of the stdout.
    pub async fn end(mut self) -> Finished {
        let mut stderr = self.child.stderr.take().expect("it is piped");
        let all = async {
            let rest = async {
                while let Some(line) = self.lines.next_line().await.expect("stdout can be read") {
                    self.read.push(line);
                }
            };
            let mut said = String::new();
            let (read, ()) = tokio::join!(stderr.read_to_string(&mut said), rest);
            read.expect("stderr is text");
            (self.child.wait().await.expect("a child can be waited for"), said)
        };
        let (status, stderr) = tokio::time::timeout(COMMAND_DEADLINE, all).await.expect("it ends in time");
        Finished { status, stdout: self.read.join("\n"), stderr }
    }
}

//! The `convoke` command line as a user runs it.

use std::path::Path;
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

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

/// A command that runs; what it says is read by line.
#[derive(Debug)]
pub struct RunningCli {
    child: Child,
    stdout: Said<ChildStdout>,
    stderr: Said<ChildStderr>,
}

#[derive(Debug)]
struct Said<R> {
    lines: Lines<BufReader<R>>,
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

    /// In a network namespace.
    pub fn within(self, namespace: &str) -> Self {
        let command = self.0.as_std();
        let mut within = Command::new("nsenter");
        within.arg(format!("--net=/run/netns/{namespace}")).arg("--").arg(command.get_program());
        within.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => within.env(name, value),
                None => within.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            within.current_dir(directory);
        }
        within.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Self(within)
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
        let stdout = Said::of(child.stdout.take());
        let stderr = Said::of(child.stderr.take());
        RunningCli { child, stdout, stderr }
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
        self.stdout.line(text).await
    }

    /// Reads stderr until a line contains `text`.
    pub async fn said(&mut self, text: &str) -> String {
        self.stderr.line(text).await
    }

    /// Waits for its end; what was read before is part of its output.
    pub async fn end(mut self) -> Finished {
        let all = async {
            let (stdout, stderr) = tokio::join!(self.stdout.rest(), self.stderr.rest());
            let status = self.child.wait().await.expect("a child can be waited for");
            Finished { status, stdout, stderr }
        };
        tokio::time::timeout(COMMAND_DEADLINE, all).await.expect("it ends in time")
    }
}

impl<R: AsyncRead + Unpin> Said<R> {
    fn of(pipe: Option<R>) -> Self {
        Self { lines: BufReader::new(pipe.expect("it is piped")).lines(), read: Vec::new() }
    }

    async fn next(&mut self) -> Option<String> {
        let line = self.lines.next_line().await.expect("it says text")?;
        self.read.push(line.clone());
        Some(line)
    }

    async fn line(&mut self, text: &str) -> String {
        let found = async {
            loop {
                match self.next().await {
                    Some(line) if line.contains(text) => return line,
                    Some(_) => {}
                    None => panic!("it ended without \"{text}\":\n{}", self.read.join("\n")),
                }
            }
        };
        tokio::time::timeout(COMMAND_DEADLINE, found)
            .await
            .unwrap_or_else(|_| panic!("no \"{text}\" within {COMMAND_DEADLINE:?}"))
    }

    /// All of it, once it has ended.
    async fn rest(&mut self) -> String {
        while self.next().await.is_some() {}
        self.read.join("\n")
    }
}

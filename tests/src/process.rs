//! A process of the cluster, its stderr in a file.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal};

use crate::{binary, eventually};

/// Ended with SIGKILL when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; what it says is appended to `log`.
    pub fn start(program: &Path, args: &[impl AsRef<OsStr>], log: &Path) -> Self {
        Self::start_with(program, args, &[], log)
    }

    /// The same, with further variables in its environment.
    pub fn start_with(
        program: &Path,
        args: &[impl AsRef<OsStr>],
        variables: &[(String, String)],
        log: &Path,
    ) -> Self {
        let stderr = OpenOptions::new().create(true).append(true).open(log).expect("the log can be opened");
        let child = Command::new(program)
            .args(args)
            .env("NO_COLOR", "1")
            .env("PATH", path())
            .env_remove("CONVOKE_COORDINATOR")
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|e| panic!("{} cannot be started: {e}", program.display()));
        Self { child, log: log.to_owned() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill9(&mut self) {
        // An error means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn signal(&self, signal: Signal) {
        signal_pid(self.pid(), signal);
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end.
    pub async fn end(&mut self, what: &str) -> ExitStatus {
        eventually(&format!("{what} has ended"), async || self.ended()).await
    }

    /// SIGTERM, and its orderly end.
    pub async fn terminate(&mut self, what: &str) {
        self.signal(Signal::TERM);
        let status = self.end(what).await;
        assert!(status.success(), "{what} ended with {status} (signal {:?})", status.signal());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// The caller's, behind the directory of the binaries: jobs run `convoke-trainer` by its name.
fn path() -> OsString {
    let mut directories = vec![binary("convoke").with_file_name("")];
    directories.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    std::env::join_paths(directories).expect("the directories came from such a list")
}

/// Sends a signal; a process that is gone gets none.
pub fn signal_pid(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    let _ = rustix::process::kill_process(pid, signal);
}

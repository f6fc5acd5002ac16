//! The shim: one process per task that owns the task, its exit code and its output, so that the
//! agent may die and come back.
//!
//! The agent starts `convoke-agent shim --dir DIR`, which makes a session of its own, starts itself
//! again as the child that is to stay, passes on that child's one line of answer, and ends: nobody
//! is then the shim's parent but init. The answer is `started`, `ended` (it could not be started;
//! the exit record says why) or `failed <why>` (nothing of the task is there).
//!
//! States of the shim that stays: launch → own (output into the spool, stop requests from the
//! control FIFO) → the main process ends, exit record → clear (what is left of its descendants
//! ends) → seal the spool, release the lock. It ignores SIGTERM, SIGINT and SIGHUP: whoever sends
//! them to a whole cgroup also sends them to the task, whose end is then recorded. When the shim is
//! killed, the kernel kills the task's main process, and the agent clears up the rest.

mod launch;
mod lifeline;
mod output;
mod own;

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use crate::runtime::TaskDir;

/// Arguments of the hidden `shim` subcommand.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The task's directory.
    #[arg(long)]
    dir: PathBuf,
    /// End, with the task, as soon as nobody holds this file's lock.
    #[arg(long)]
    lifeline: Option<PathBuf>,
    /// This is the process that stays.
    #[arg(long)]
    detached: bool,
}

/// Runs a task to its end. Call it before any thread or runtime is started.
pub fn main(args: &Args) -> ExitCode {
    let result = if args.detached { stay(args) } else { detach(args) };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            answer(&format!("failed {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The answer is a line on stdout. Nobody may be listening any more, which changes nothing.
fn answer(line: &str) {
    let mut out = io::stdout();
    writeln!(out, "{}", line.replace('\n', "; ")).and_then(|()| out.flush()).ok();
}

fn detach(args: &Args) -> anyhow::Result<()> {
    // Fails only for the leader of a process group: then a shell's job control already did it.
    rustix::process::setsid().ok();
    close_on_exec()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("shim").arg("--detached").arg("--dir").arg(&args.dir);
    if let Some(lifeline) = &args.lifeline {
        command.arg("--lifeline").arg(lifeline);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line)?;
    }
    anyhow::ensure!(!line.is_empty(), "it ended without an answer; see {}/shim.log", args.dir.display());
    answer(line.trim_end());
    Ok(())
}

/// Whatever the agent's own starter left open is not for the task: somebody may wait for its end.
fn close_on_exec() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(fd) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if fd > 2 {
            // SAFETY: the descriptor is open, being listed; it is only marked. The one that lists
            // is closed after this loop.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}

fn stay(args: &Args) -> anyhow::Result<()> {
    let dir = TaskDir::new(args.dir.clone());
    let Some(_alive) = dir.try_lock()? else {
        anyhow::bail!("another shim or agent holds {}", dir.path().display());
    };
    let Some(record) = dir.record()? else { anyhow::bail!("{} has no task.json", dir.path().display()) };
    anyhow::ensure!(!dir.has_exit(), "the task has ended already");
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    if let Some(path) = &args.lifeline {
        lifeline::watch(path)?;
    }
    // One thread: the kernel ties the task's life to the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(own::own(&dir, &record))
}

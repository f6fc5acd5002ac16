//! Following a task from running to ended.

use std::io;
use std::time::Duration;

use convoke_model::{ExitStatus, TaskExit};
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

use super::super::procfs::{self, ProcessId};
use super::super::{Started, TaskDir, TaskKey, TaskStatus};
use super::{ProcessRuntime, Shared};
use crate::{clock, spool};

/// Between a main process's end and its exit record, and between a shim's last words and its end,
/// there are milliseconds: looked at this often, and only then.
const SOON: Duration = Duration::from_millis(5);
/// How often a process that SIGKILL did not end is looked for again; it hangs in the kernel.
const STUCK: Duration = Duration::from_millis(500);

impl ProcessRuntime {
    /// Keeps the status of a known task up to date until it has ended.
    pub(super) fn watch(&self, task: TaskKey, marker: String) {
        let shared = self.shared.clone();
        let dir = self.dir(&task);
        tokio::spawn(async move {
            // Only a disk that fails gets here; the task's processes are left alone then.
            while let Err(error) = follow(&shared, &task, &dir, &marker).await {
                tracing::warn!(%task, %error, "cannot follow a task; trying again");
                sleep(STUCK).await;
            }
        });
    }
}

async fn follow(shared: &Shared, task: &TaskKey, dir: &TaskDir, marker: &str) -> io::Result<()> {
    if let Some(started) = started(dir).await? {
        if dir.exit()?.is_none() {
            shared.set(task, TaskStatus::running(started.task.pid.cast_unsigned()));
        }
        gone(&started.task).await?;
        while dir.exit()?.is_none() && started.shim.pidfd().is_some() {
            sleep(SOON).await;
        }
        if let Some(exit) = dir.exit()? {
            shared.set(task, TaskStatus::Exited(exit));
        }
        gone(&started.shim).await?;
    }
    // The lock says it for certain; holding it from here on keeps any other shim from starting.
    let _lock = loop {
        match dir.try_lock()? {
            Some(lock) => break lock,
            None => sleep(SOON).await,
        }
    };
    let exit = match dir.exit()? {
        Some(exit) => exit,
        None => {
            let exit = unknown(dir);
            dir.write_exit(&exit)?;
            exit
        }
    };
    shared.set(task, TaskStatus::Exited(exit.clone()));
    clear(task, marker).await?;
    spool::seal(&dir.output())?;
    shared.set(task, TaskStatus::Ended(exit));
    Ok(())
}

/// The processes of the task; `None` if it has none and never will: no shim lives that could still
/// start it.
async fn started(dir: &TaskDir) -> io::Result<Option<Started>> {
    for round in 0_u32.. {
        let no_shim = dir.try_lock()?.is_some();
        if let Some(started) = dir.started()? {
            return Ok(Some(started));
        }
        if no_shim {
            return Ok(None);
        }
        // A shim that is between its lock and its task; one whose record is damaged stays there until its end.
        sleep(if round < 200 { SOON } else { STUCK }).await;
    }
    Ok(None)
}

/// Waits for a process's end.
async fn gone(process: &ProcessId) -> io::Result<()> {
    if let Some(fd) = process.pidfd() {
        // SAFETY: the descriptor is owned, and nothing takes it out before the AsyncFd is dropped.
        let fd = unsafe { AsyncFd::register(fd) }.map_err(io::Error::from)?;
        fd.readable().await?.retain_ready();
    }
    Ok(())
}

/// Kills what is left until two scans in a row find nothing: one alone could miss a process that
/// was started behind it by one that ended before it.
async fn clear(task: &TaskKey, marker: &str) -> io::Result<()> {
    let mut clean = 0;
    let mut rounds = 0_u32;
    while clean < 2 {
        // A scan reads a file per process of the host; that is no work for the reactor.
        let wanted = marker.to_owned();
        let scan = tokio::task::spawn_blocking(move || procfs::kill_marked(&wanted));
        let found = scan.await.map_err(io::Error::other)??;
        clean = if found == 0 { clean + 1 } else { 0 };
        if found > 0 {
            rounds += 1;
            if rounds.is_multiple_of(100) {
                tracing::warn!(%task, found, "processes of the task do not end after SIGKILL");
            }
            sleep(if rounds < 100 { SOON } else { STUCK }).await;
        }
    }
    Ok(())
}

fn unknown(dir: &TaskDir) -> TaskExit {
    let message = if dir.has_exit() {
        "it has ended, and the record of how is damaged"
    } else {
        "its shim ended without an exit record (killed, or the host restarted)"
    };
    TaskExit { message: Some(message.to_owned()), ..TaskExit::new(ExitStatus::Unknown, clock::now()) }
}

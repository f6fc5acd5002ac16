//! Owning a started task until nothing is left of it.

use std::io;
use std::time::Duration;

use convoke_model::{ExitStatus, TaskExit};
use rustix::process::{Pid, WaitOptions, WaitStatus, kill_process_group, wait};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::answer;
use super::launch::{CannotStart, launch};
use super::output::Output;
use crate::clock;
use crate::runtime::procfs::{self, ProcessId};
use crate::runtime::{Started, TaskDir, TaskRecord};
use crate::spool::{Source, Writer};

/// What the main process left behind may end by itself for this long: it usually is about to.
const LEFTOVER_GRACE: Duration = Duration::from_millis(200);
/// A killed process that is still there after this long hangs in the kernel; the agent keeps
/// looking for it, the shim does not.
const CLEAR_DEADLINE: Duration = Duration::from_secs(10);
/// Pause between two rounds of killing.
const ROUND: Duration = Duration::from_millis(20);
/// Runs the task of `dir` to its end.
pub(super) async fn own(dir: &TaskDir, record: &TaskRecord) -> anyhow::Result<()> {
    let control = pipe::OpenOptions::new().read_write(true).open_receiver(dir.control())?;
    let ignored = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let _ignored = ignored.map(signal).into_iter().collect::<io::Result<Vec<_>>>()?;
    let children = signal(SignalKind::child())?;
    dir.reserve_exit()?;
    let mut spool = Writer::create(&dir.output(), record.output_limit)?;
    let launched = match launch(record) {
        Ok(launched) => launched,
        Err(CannotStart { code, message }) => {
            spool.push(clock::now(), Source::Convoke, message.as_bytes());
            spool.finish()?;
            let status = ExitStatus::Code(code);
            dir.write_exit(&TaskExit { message: Some(message), ..TaskExit::new(status, clock::now()) })?;
            answer("ended");
            return Ok(());
        }
    };
    let mut owner = Owner {
        main: Pid::from_child(&launched.child),
        stdout: Output::new(launched.stdout, Source::Stdout)?,
        stderr: Output::new(launched.stderr, Source::Stderr)?,
        spool,
        control: BufReader::new(control).lines(),
        children,
        stop_signal: record.spec.stop_signal,
        kill_at: None,
        killed: false,
        dir: dir.clone(),
    };
    let own = ProcessId::of(std::process::id().cast_signed())?;
    let task = ProcessId::of(owner.main.as_raw_nonzero().get())?;
    dir.write_started(&Started { shim: own, task })?;
    answer("started");

    let status = owner.until_main_ends().await?;
    let exit = owner.exit(status);
    dir.write_exit(&exit)?;
    owner.clear().await?;
    owner.finish()
}

struct Owner {
    main: Pid,
    stdout: Output,
    stderr: Output,
    spool: Writer,
    control: Lines<BufReader<pipe::Receiver>>,
    children: Signal,
    stop_signal: i32,
    /// When a requested stop becomes SIGKILL.
    kill_at: Option<Instant>,
    killed: bool,
    dir: TaskDir,
}

impl Owner {
    async fn until_main_ends(&mut self) -> io::Result<WaitStatus> {
        loop {
            if let (Some(status), _) = self.reap()? {
                return Ok(status);
            }
            self.step(self.kill_at).await?;
            if self.kill_at.is_some_and(|at| at <= Instant::now()) {
                self.killed = true;
                self.kill();
                self.kill_at = Some(Instant::now() + ROUND);
            }
        }
    }

    /// Waits for one thing to happen, until `wake` at the latest, and takes it.
    async fn step(&mut self, wake: Option<Instant>) -> io::Result<()> {
        tokio::select! {
            _ = self.children.recv() => {}
            request = self.control.next_line() => self.request(&request?.unwrap_or_default()),
            () = self.stdout.readable() => self.stdout.take(&mut self.spool),
            () = self.stderr.readable() => self.stderr.take(&mut self.spool),
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
        }
        Ok(())
    }

    /// Collects every child that ended: the main process's status if it is among them, and whether
    /// any child is left. As subreaper it has children as long as the task has descendants.
    fn reap(&self) -> io::Result<(Option<WaitStatus>, bool)> {
        let mut main = None;
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.main => main = Some(status),
                Ok(Some(_)) => {}
                Ok(None) => return Ok((main, true)),
                Err(rustix::io::Errno::CHILD) => return Ok((main, false)),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// `stop <grace in ms>`; a shorter grace than before brings the end forward.
    fn request(&mut self, line: &str) {
        let grace = line.strip_prefix("stop ").and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let Some(grace) = grace else {
            eprintln!("not a request: {line:?}");
            return;
        };
        if self.kill_at.is_none() {
            if let Err(error) = self.dir.mark_stopping() {
                eprintln!("the time of the stop cannot be noted: {error}");
            }
            // The main process is not reaped yet, so the group is the task's for certain.
            kill_process_group(self.main, procfs::signal(self.stop_signal)).ok();
        }
        // Far beyond any job's life, and far from the clock's end.
        let at = Instant::now() + grace.min(Duration::from_secs(10 * 365 * 24 * 3600));
        self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
    }

    fn kill(&self) {
        if let Err(error) = procfs::kill_descendants(std::process::id().cast_signed()) {
            eprintln!("looking for the task's processes: {error}");
        }
    }

    fn exit(&self, status: WaitStatus) -> TaskExit {
        let stopped = self.kill_at.is_some();
        let status = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => ExitStatus::Code(code),
            (None, Some(signal)) => ExitStatus::Signal(signal),
            (None, None) => ExitStatus::Unknown,
        };
        let message =
            self.killed.then(|| format!("it did not end within its grace after signal {}", self.stop_signal));
        TaskExit { stopped, message, ..TaskExit::new(status, clock::now()) }
    }

    /// Ends what the main process left behind. If that was asked to stop, it has its grace too.
    async fn clear(&mut self) -> io::Result<()> {
        let mut kill_at = Instant::now() + LEFTOVER_GRACE;
        let mut give_up_at = None;
        while self.reap()?.1 {
            if give_up_at.is_none() {
                kill_at = self.kill_at.unwrap_or(kill_at);
            }
            self.step(Some(kill_at)).await?;
            let now = Instant::now();
            if kill_at > now {
                continue;
            }
            if now >= *give_up_at.get_or_insert(now + CLEAR_DEADLINE) {
                eprintln!("a killed process does not end; it probably hangs in a driver or a mount");
                break;
            }
            self.kill();
            kill_at = now + ROUND;
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<()> {
        self.stdout.finish(&mut self.spool);
        self.stderr.finish(&mut self.spool);
        Ok(self.spool.finish()?)
    }
}

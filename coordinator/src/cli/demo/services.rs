//! The demo's coordinator and agents, kept running as systemd would: what ends is started again on
//! the same data.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use convoke_transport::{Backoff, Shutdown, ShutdownTrigger};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::home::Home;
use crate::cli::attach::Screen;
use crate::cli::failure::{Failure, exit};

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// A service that ran this long had started; one that ends earlier may never.
const STARTED: Duration = Duration::from_secs(5);
/// Starts in a row that may end early.
const TRIES: u32 = 5;

/// One program to keep running.
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) program: PathBuf,
    /// Asked before each start: the coordinator's address is only known after its first.
    pub(super) args: Box<dyn Fn() -> Vec<String> + Send + Sync>,
}

pub(super) struct Services {
    tasks: JoinSet<Result<(), Failure>>,
    stop: ShutdownTrigger,
    stopping: Shutdown,
    screen: Screen,
    logs: PathBuf,
}

impl Services {
    pub(super) fn new(home: &Home, screen: Screen) -> Self {
        let (stop, stopping) = convoke_transport::shutdown();
        Self { tasks: JoinSet::new(), stop, stopping, screen, logs: home.logs() }
    }

    pub(super) fn start(&mut self, service: Service) {
        let log = self.logs.join(format!("{}.log", service.name));
        self.tasks.spawn(keep_running(service, log, self.screen.clone(), self.stopping.clone()));
    }

    /// Returns when a service cannot be kept running. Cancel-safe.
    pub(super) async fn failed(&mut self) -> Failure {
        match self.tasks.join_next().await {
            Some(Ok(Err(failure))) => failure,
            // None ends without an error before it is asked to.
            Some(_) | None => std::future::pending().await,
        }
    }

    /// Ends all: SIGTERM, some grace, SIGKILL.
    pub(super) async fn stop(mut self) {
        self.stop.begin();
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn keep_running(
    service: Service,
    log: PathBuf,
    screen: Screen,
    mut stopping: Shutdown,
) -> Result<(), Failure> {
    let mut backoff = Backoff::default();
    let mut early = 0;
    loop {
        let since = Instant::now();
        let mut child = spawn(&service, &log)?;
        let status = tokio::select! {
            status = child.wait() => status.map_err(|e| Failure::file("wait for", &service.program, &e))?,
            () = stopping.begun() => return end(&mut child).await,
        };
        early = if since.elapsed() < STARTED { early + 1 } else { 0 };
        if early > TRIES {
            return Err(will_not_run(&service, &log));
        }
        screen.note(&format!("demo: {} ended ({status}); starting it again", service.name));
        tokio::select! {
            () = backoff.pause() => {}
            () = stopping.begun() => return Ok(()),
        }
    }
}

fn spawn(service: &Service, log: &Path) -> Result<Child, Failure> {
    let open = || File::options().append(true).create(true).open(log);
    let out = open().map_err(|e| Failure::file("write", log, &e))?;
    let err = open().map_err(|e| Failure::file("write", log, &e))?;
    let mut command = Command::new(&service.program);
    command.args((service.args)()).env("PATH", path(&service.program));
    // What the user has set is meant for a cluster, not for the demo's.
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("CONVOKE_")) {
        if name != "CONVOKE_LOG" {
            command.env_remove(name);
        }
    }
    command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        // Ctrl-C is for the demo, which ends the others in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Failure::file("start", &service.program, &e))
}

/// The trainer is found where Convoke's other programs are.
fn path(program: &Path) -> std::ffi::OsString {
    let own = program.parent().map(Path::to_owned);
    let given = std::env::var_os("PATH").unwrap_or_default();
    let all: Vec<_> = own.into_iter().chain(std::env::split_paths(&given)).collect();
    // Fails for a directory with a colon in its name; the user's own PATH is then all there is.
    std::env::join_paths(all).unwrap_or(given)
}

async fn end(child: &mut Child) -> Result<(), Failure> {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended since.
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(GRACE, child.wait()).await.is_err() {
        // Its wait below says whether that worked.
        let _ = child.start_kill();
        let _ = timeout(GRACE, child.wait()).await;
    }
    Ok(())
}

fn will_not_run(service: &Service, log: &Path) -> Failure {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(8)..].join("\n    ");
    let message = format!("{} does not keep running; its last words:\n    {tail}", service.name);
    Failure::new(exit::FAILED, "DEMO_SERVICE", message).hint(format!("all of them: {}", log.display()))
}

//! Following a task from running to ended, across the engine's absences.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as BollardError;
use bollard::models::{ContainerState, ContainerStateStatusEnum};
use bollard::query_parameters::{EventsOptionsBuilder, WaitContainerOptionsBuilder};
use convoke_model::TaskExit;
use futures::StreamExt as _;
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::super::{ContainerRecord, TaskKey, TaskStatus};
use super::exit::{self, Facts, Went};
use super::logs::{Drain, Unread};
use super::presence::{Reached, health_of};
use super::stop::{KILL, send_signal};
use super::{DockerRuntime, Shared};
use crate::clock::now;
use crate::engine::{Engine, EngineError};

/// Pause before an engine that failed is asked again.
const RETRY: Duration = Duration::from_millis(200);
/// Last readings that an engine may break off and still be there, before what is missing is given up: one that goes
/// away is known to be gone before.
const TRIES: u32 = 20;
/// How long a killed container may take to be gone before it is killed again; its processes then hang
/// in a driver or a mount.
const STUCK: Duration = Duration::from_secs(10);

/// One task's follower.
struct Watch {
    shared: Arc<Shared>,
    task: TaskKey,
    record: ContainerRecord,
    /// Its id.
    container: String,
    drain: Drain,
    kill_at: channel::Receiver<Option<Instant>>,
    /// SIGKILL was sent.
    killed: bool,
    /// When the engine started it, as the engine tells it.
    started_at: Option<String>,
    /// Somebody else has started it anew: that is another process, which knows nothing of its gang.
    restarted: bool,
    /// The engine was out of reach since the container was last known to run.
    interrupted: bool,
    /// The engine under which that was.
    ran_under: Option<Arc<Reached>>,
    /// What may have gone away since an earlier agent saw it run.
    doubt: Option<Went>,
}

impl DockerRuntime {
    /// Keeps the status of a known task up to date until it has ended.
    pub(super) fn watch(
        &self,
        record: ContainerRecord,
        container: String,
        drain: Drain,
        doubt: Option<Went>,
    ) {
        let task = record.key.clone();
        let Some(kill_at) = self.shared.tasks().get(&task).map(|known| known.kill_at.subscribe()) else {
            return;
        };
        let shared = self.shared.clone();
        let watch = Watch {
            shared,
            task,
            record,
            container,
            drain,
            kill_at,
            killed: false,
            started_at: None,
            restarted: false,
            interrupted: false,
            ran_under: None,
            doubt,
        };
        tokio::spawn(watch.run());
    }
}

impl Watch {
    async fn run(mut self) {
        let (reached, ended) = loop {
            // Without a deadline: a container whose engine is away is left alone.
            let Some(reached) = self.shared.presence.there().await else { return };
            match self.until_ended(&reached).await {
                Ok(ended) => break (reached, ended),
                Err(error) => {
                    self.interrupted |= error.is_away();
                    if !error.is_away() {
                        warn!(task = %self.task, "cannot follow a container, trying again: {error}");
                    }
                    sleep(RETRY).await;
                }
            }
        };
        if self.doubt == Some(Went::Unseen) && self.ended_by_itself(&reached.engine, ended.as_ref()).await {
            self.doubt = None;
        }
        let exit = self.exit(&reached, ended.as_ref());
        self.shared.set(&self.task, TaskStatus::Exited(exit.clone()));
        self.end(exit, ended.is_some()).await;
    }

    /// Returns the container's last state, or `None` if it is gone.
    async fn until_ended(&mut self, reached: &Arc<Reached>) -> Result<Option<ContainerState>, EngineError> {
        let engine = &reached.engine;
        loop {
            let Some(state) = inspect(engine, &self.container).await? else { return Ok(None) };
            if !is_running(&state) {
                return Ok(Some(state));
            }
            if *self.started_at.get_or_insert_with(|| started_at(&state)) != started_at(&state) {
                self.restarted = true;
                send_signal(engine, &self.container, KILL).await?;
                wait(engine, &self.container).await?;
                continue;
            }
            (self.interrupted, self.ran_under, self.doubt) = (false, Some(reached.clone()), None);
            let pid = state.pid.and_then(|pid| pid.try_into().ok()).unwrap_or_default();
            let health = state.health.and_then(|health| health_of(health.status?));
            let paused = state.paused.unwrap_or_default();
            self.shared.set(&self.task, TaskStatus::Running { pid, health, paused });
            let (name, drain) = (self.container.clone(), self.drain.clone());
            tokio::select! {
                ended = wait(engine, &name) => ended?,
                error = follow(engine, &name, &drain) => return Err(error),
                error = kill_when_due(engine, &name, &mut self.kill_at, &mut self.killed) => return Err(error),
            }
        }
    }

    /// True if the engine that is there now tells that the container ended, and that nobody had asked it to. An
    /// engine that stops asks its containers to end, and tells of nothing that was before its start: what it leaves
    /// of them looks in all else like what ended by itself.
    async fn ended_by_itself(&self, engine: &Engine, ended: Option<&ContainerState>) -> bool {
        // One that somebody removed says so.
        if ended.is_none() {
            return true;
        }
        let filters =
            HashMap::from([("container", vec![self.container.as_str()]), ("event", vec!["kill", "die"])]);
        // A second from now: an event of this very second counts.
        let until = (now().0 / 1000 + 1).to_string();
        let options = EventsOptionsBuilder::default().since("1").until(&until).filters(&filters).build();
        let events = engine.docker().events(Some(options)).collect::<Vec<_>>();
        let Ok(events) = timeout(STUCK, events).await else { return false };
        let asked = [KILL, self.record.stop_signal].map(|signal| signal.to_string());
        let (mut died, mut was_asked) = (false, false);
        for event in events.into_iter().flatten() {
            let about = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
            died |= event.action.as_deref() == Some("die");
            was_asked |= about.get("signal").is_some_and(|signal| asked.contains(signal));
        }
        died && !was_asked
    }

    fn exit(&self, reached: &Arc<Reached>, ended: Option<&ContainerState>) -> TaskExit {
        let stopped = self.shared.is_stopped(&self.task);
        // An engine that was only slow to answer did nothing to the container.
        let another = self.ran_under.as_ref().is_some_and(|before| !Arc::ptr_eq(before, reached));
        let went = if self.interrupted && another { Some(Went::Engine) } else { self.doubt };
        let spared = |went: &Went| *went != Went::Host && reached.info.live_restore;
        let facts = Facts {
            stopped: stopped.then_some(self.record.stop_signal),
            killed: self.killed,
            went: if self.restarted { Some(Went::Restarted) } else { went.filter(|went| !spared(went)) },
            memory_limit: self.record.memory_limit,
        };
        match ended {
            Some(state) => exit::exit(state, &facts, now()),
            None => exit::vanished(&facts, now()),
        }
    }

    /// Takes the last lines, and lets the task end once they and the exit are on disk.
    async fn end(self, mut exit: TaskExit, there: bool) {
        let mut broken: Option<(Arc<Reached>, u32)> = None;
        loop {
            let Some(reached) = self.shared.presence.there().await else { return };
            let tries = broken.as_ref().filter(|(by, _)| Arc::ptr_eq(by, &reached)).map_or(0, |(_, n)| *n);
            match self.record_end(&reached.engine, &mut exit, there, tries == TRIES).await {
                Ok(()) => break,
                Err(Unread::Away(error)) => {
                    broken = Some((reached, tries + 1));
                    debug!(task = %self.task, "the last lines are read again: {error}");
                    sleep(RETRY).await;
                }
                Err(Unread::Disk(error)) => {
                    warn!(task = %self.task, %error, "cannot record a task's end; trying again");
                    sleep(STUCK).await;
                }
            }
        }
        info!(task = %self.task, status = ?exit.status, "ended");
        self.shared.set(&self.task, TaskStatus::Ended(exit));
    }

    async fn record_end(
        &self,
        engine: &Engine,
        exit: &mut TaskExit,
        there: bool,
        last_try: bool,
    ) -> Result<(), Unread> {
        if there {
            self.drain.read_rest(engine, &self.container, last_try).await?;
        }
        if exit::is_not_run(exit) && exit.message.is_none() {
            let line = self.drain.init_failure().await?;
            exit.message = line.and_then(|line| exit::init_failure(&line, &self.record.image));
        }
        self.drain.seal().await?;
        let (dir, exit) = (self.shared.dir(&self.task), exit.clone());
        Ok(tokio::task::spawn_blocking(move || dir.write_exit(&exit)).await.map_err(io::Error::other)??)
    }
}

/// The container's state; `None` if there is no such container.
pub(super) async fn inspect(engine: &Engine, container: &str) -> Result<Option<ContainerState>, EngineError> {
    match engine.docker().inspect_container(container, None).await {
        Ok(seen) => Ok(Some(seen.state.unwrap_or_default())),
        Err(error) => match engine.error("does not describe a container", error) {
            error if error.is_not_found() => Ok(None),
            error => Err(error),
        },
    }
}

fn started_at(state: &ContainerState) -> String {
    state.started_at.clone().unwrap_or_default()
}

/// True while the container may still have processes.
pub(super) fn is_running(state: &ContainerState) -> bool {
    let over =
        [ContainerStateStatusEnum::EXITED, ContainerStateStatusEnum::DEAD, ContainerStateStatusEnum::CREATED];
    state.running.unwrap_or_default() && state.status.is_none_or(|status| !over.contains(&status))
}

/// Waits for the container's end, however long that takes. How it ended is for [`inspect`] to tell.
async fn wait(engine: &Engine, container: &str) -> Result<(), EngineError> {
    let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
    let mut waiting = engine.docker().wait_container(container, Some(options)).boxed();
    match waiting.next().await {
        // The client makes an error of a code that is not 0.
        Some(Ok(_) | Err(BollardError::DockerContainerWaitError { .. })) => Ok(()),
        Some(Err(error)) => match engine.error("ended the wait for a container", error) {
            error if error.is_not_found() => Ok(()),
            error => Err(error),
        },
        None => Err(EngineError::NotRunning { socket: engine.socket().to_owned() }),
    }
}

/// Follows the log for as long as the engine is there.
async fn follow(engine: &Engine, container: &str, drain: &Drain) -> EngineError {
    loop {
        let error = engine.error("ended a container's log", drain.follow(engine, container).await);
        if error.is_away() {
            return error;
        }
        // A container without a log that can be read (of another log driver) is still waited for.
        warn!(container, "the output cannot be followed, trying again: {error}");
        sleep(STUCK).await;
    }
}

/// Kills the container when a requested stop is due; until then it waits for ever.
async fn kill_when_due(
    engine: &Engine,
    container: &str,
    kill_at: &mut channel::Receiver<Option<Instant>>,
    killed: &mut bool,
) -> EngineError {
    loop {
        let due = *kill_at.borrow_and_update();
        let Some(at) = due else {
            if kill_at.changed().await.is_err() {
                return std::future::pending().await;
            }
            continue;
        };
        tokio::select! {
            () = sleep_until(at) => {}
            Ok(()) = kill_at.changed() => continue,
        }
        *killed = true;
        if let Err(error) = send_signal(engine, container, KILL).await {
            return error;
        }
        sleep(STUCK).await;
        warn!(container, "does not end after SIGKILL; a process of it probably hangs in a driver or a mount");
    }
}

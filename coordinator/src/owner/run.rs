//! The owner's thread.

use std::thread::JoinHandle;
use std::time::Duration;

use convoke_core::{Changes, Config, Core, Decision, Effect, Event, Observation, State};
use convoke_model::{ClusterId, NodeId, Timestamp};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Accepted, Hello, Outlets, Owner, QUEUE, Refused, Request};
use crate::clock::Clock;
use crate::ledger::{Ledger, LedgerError, Replay};
use crate::sessions::Session;

/// Changes after which the state is written whole: a start replays at most this many, in
/// milliseconds, and a snapshot of some megabytes is rare enough.
const SNAPSHOT_EVERY: u64 = 1_000;

/// Pause after a tick that could not be committed, or that left its deadline where it was.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the ledger cannot be replayed ({0}): it was written by another version, or is damaged")]
    Replay(serde_json::Error),
    #[error("the start was denied: {0}")]
    Start(Refused),
    #[error("no thread could be started: {0}")]
    Thread(std::io::Error),
}

struct Running {
    core: Core,
    ledger: Ledger,
    clock: Clock,
    outlets: Outlets,
    snapshot_every: u64,
    /// Not before this time may the next tick come.
    tick_floor: Instant,
    /// When the loop last went around.
    awake: Instant,
}

/// The owner before it runs: state replayed, start committed.
pub(crate) struct OwnerThread {
    running: Running,
}

impl OwnerThread {
    /// Replays the ledger and commits this start.
    pub(crate) fn prepare(
        config: Config,
        ledger: Ledger,
        replay: Replay,
        outlets: Outlets,
        new_cluster: ClusterId,
    ) -> Result<Self, StartError> {
        let snapshot = replay.snapshot.as_deref().map(serde_json::from_slice::<State>);
        let state = snapshot.transpose().map_err(StartError::Replay)?.unwrap_or_default();
        let mut core = Core::new(config, state);
        let mut last = Timestamp(0);
        for bytes in replay.changes {
            let changes: Changes = serde_json::from_slice(&bytes).map_err(StartError::Replay)?;
            last = last.max(changes.at);
            // What a replay would wake is not there yet; what it would delete, the sweep deletes.
            let _ = core.apply(&changes);
        }
        let newest = ledger.newest_event()?.map_or(last, |event| last.max(event.at));
        let clock = Clock::starting_at_least(newest);
        let (snapshot_every, awake) = (SNAPSHOT_EVERY, Instant::now());
        let mut running = Running { core, ledger, clock, outlets, snapshot_every, tick_floor: awake, awake };
        running.decide(Event::Started { new_cluster }).map_err(StartError::Start)?;
        Ok(Self { running })
    }

    #[cfg(test)]
    pub(crate) fn snapshot_every(mut self, changes: u64) -> Self {
        self.running.snapshot_every = changes;
        self
    }

    pub(crate) fn core(&self) -> &Core {
        &self.running.core
    }

    /// Starts the thread; it ends after [`Owner::stop`], or when every handle is gone.
    pub(crate) fn start(self) -> Result<(Owner, JoinHandle<()>), StartError> {
        let (requests, received) = mpsc::channel(QUEUE);
        let runtime = tokio::runtime::Handle::current();
        let thread = std::thread::Builder::new()
            .name("owner".to_owned())
            .spawn(move || runtime.block_on(self.running.run(received)))
            .map_err(StartError::Thread)?;
        Ok((Owner { requests }, thread))
    }
}

impl Running {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            let beat = Instant::now() + self.stall() / 2;
            let wake = self.deadline().map_or(beat, |deadline| deadline.min(beat));
            let request = tokio::select! {
                request = requests.recv() => Some(request),
                () = sleep_until(wake) => None,
            };
            self.notice_stall();
            match request {
                Some(None | Some(Request::Stop)) => return,
                Some(Some(request)) => self.serve(request),
                None if self.deadline().is_some_and(|at| at <= Instant::now()) => self.tick(),
                None => {}
            }
            self.snapshot_if_due();
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.core.next_deadline().map(|at| self.clock.instant_of(at).max(self.tick_floor))
    }

    /// A gap in the loop that must not count as silence of the nodes. Agents are heard every third
    /// of a lease, so shorter gaps cannot use a lease up.
    fn stall(&self) -> Duration {
        self.core.config().lease / 3
    }

    fn notice_stall(&mut self) {
        let gap = std::mem::replace(&mut self.awake, Instant::now()).elapsed();
        if gap > self.stall() {
            tracing::warn!(
                "the coordinator did not run for {} s; no node is judged before it had time to report",
                gap.as_secs()
            );
            self.core.observe(self.clock.now(), Observation::Stalled);
        }
    }

    fn serve(&mut self, request: Request) {
        match request {
            Request::Decide { event, reply } => self.answer(*event, |answer| {
                let _ = reply.send(answer);
            }),
            Request::Read(view) => view(&self.core, self.clock.now()),
            Request::Hello { hello, reply } => {
                let _ = reply.send(self.hello(*hello));
            }
            Request::Observed { node, session, observed, reply } => {
                if !self.hear(&node, session) {
                    let _ = reply.send(Err(Refused::Superseded));
                    return;
                }
                self.answer(Event::NodeObserved { node, observed: *observed }, |answer| {
                    let _ = reply.send(answer.map(drop));
                });
            }
            Request::Heard { node, session } => {
                self.hear(&node, session);
            }
            Request::SessionEnded { node, session } => {
                if self.outlets.sessions.remove(&node, session) {
                    self.core.observe(self.clock.now(), Observation::SessionClosed { node });
                    self.tick();
                }
            }
            Request::Stop => {}
        }
    }

    /// Notes a sign of life; false if the session is not the node's current one.
    fn hear(&mut self, node: &NodeId, session: u64) -> bool {
        let current = self.outlets.sessions.is_current(node, session);
        if current {
            self.core.observe(self.clock.now(), Observation::Heard { node: node.clone() });
        }
        current
    }

    fn hello(&mut self, hello: Hello) -> Result<Session, Refused> {
        let Hello { info, instance, cluster } = hello;
        let node = info.id.clone();
        self.decide(Event::NodeHello { info, instance: instance.clone(), cluster })?;
        let session = self.outlets.sessions.open(&node, &instance);
        self.core.observe(self.clock.now(), Observation::SessionOpened { node, instance });
        Ok(session)
    }

    /// Decides without anybody waiting for the answer.
    fn tick(&mut self) {
        let mut due = true;
        self.answer(Event::Tick, |answer| {
            if let Err(error) = answer {
                tracing::error!("time passes, but nothing can be decided: {error}");
                due = false;
            }
        });
        if !due || self.core.next_deadline().is_some_and(|at| at <= self.clock.now()) {
            self.tick_floor = Instant::now() + RETRY;
        }
    }

    fn decide(&mut self, event: Event) -> Result<Accepted, Refused> {
        let mut result = Err(Refused::Closed);
        self.answer(event, |answer| result = answer);
        result
    }

    /// Decide, commit, apply; reply; act.
    fn answer(&mut self, event: Event, reply: impl FnOnce(Result<Accepted, Refused>)) {
        match self.accept(event) {
            Ok((accepted, effects)) => {
                reply(Ok(accepted));
                self.act(effects);
            }
            Err(refused) => reply(Err(refused)),
        }
    }

    fn accept(&mut self, event: Event) -> Result<(Accepted, Vec<Effect>), Refused> {
        self.recover()?;
        match self.core.decide(self.clock.now(), event)? {
            Decision::AlreadySo(so) => Ok((Accepted::AlreadySo(so), Vec::new())),
            Decision::Changes(changes) => {
                let json = serde_json::to_vec(&changes).expect("changes are plain data");
                self.ledger.commit(&json, &changes.events)?;
                Ok((Accepted::Changed, self.core.apply(&changes)))
            }
        }
    }

    /// After a failed write: opens the ledger again, and catches up if that write had landed.
    fn recover(&mut self) -> Result<(), LedgerError> {
        if !self.ledger.failed() {
            return Ok(());
        }
        for bytes in self.ledger.reopen()? {
            let changes: Changes =
                serde_json::from_slice(&bytes).expect("this process wrote it a moment ago");
            let effects = self.core.apply(&changes);
            self.act(effects);
        }
        tracing::info!("the ledger can be written again");
        Ok(())
    }

    fn act(&self, effects: Vec<Effect>) {
        for effect in effects {
            self.outlets.act(effect, self.ledger.next_event());
        }
    }

    fn snapshot_if_due(&mut self) {
        if self.ledger.failed() || self.ledger.since_snapshot() < self.snapshot_every {
            return;
        }
        let state = serde_json::to_vec(self.core.state()).expect("the state is plain data");
        if let Err(error) = self.ledger.snapshot(&state) {
            tracing::error!("no snapshot was written: {error}");
        }
    }
}

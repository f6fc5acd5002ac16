//! What comes back: the files that a replica's tasks added or changed in its writable mounts.
//!
//! One collector for each replica whose files are wanted: node rank 0's, or with `collect: all` every
//! one's. It goes *watching* → *draining* (the tasks have ended) → *home*, or *left*.
//!
//! Every second it looks through the copies (`scan`); what has come to rest (`looks`) is hashed
//! (`judge`), sent and reported (`send`), and noted (`journal`). Draining, all that differs from the
//! start goes, at rest or not. Deletions, links, sockets and the like do not travel: how many there are is told.
//!
//! Until all is home, the replica's directory is marked as owing (`owed`), and nothing deletes it:
//!
//! | the tasks have ended, and | the replica's end | the files |
//! |---|---|---|
//! | files move (`motion`), or the coordinator is away | waits | are sent |
//! | the coordinator is there and takes nothing for the patience | is told, with `ReturningFiles` | are sent on |
//! | some exceed the limits, or cannot be read or named | is told, with `FilesNotReturned` | those stay, the others go |
//! | the generation or the job is not known any more | is told, with `FilesNotReturned` | stay, and are not sent |
//!
//! Devices and ports are free in any case. When the replica is removed, what is not home stays where it is, without
//! the replica: `kept`.

mod batch;
mod journal;
mod judge;
mod looks;
mod motion;
mod run;
mod scan;
mod send;
mod tell;
mod writers;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use convoke_model::{Collect, DesiredReplica, NodeRank, ReplicaKey};
use convoke_tree::Manifest;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::journal::Journal;
use self::looks::{Looks, Settled};
use self::run::Gatherer;
use self::scan::Scan;
use self::tell::Teller;
use super::Files;
use super::laid::{Laid, OwnCopy};
use super::owed::Owed;
use crate::ledger;
use crate::work::about;

pub(crate) use self::motion::Motion;

/// Bytes that one replica may bring home by default: what a coordinator's disk and a submitter's can be
/// expected to take.
pub const DEFAULT_LIMIT: u64 = 100 << 30;
/// Files that one replica may bring home: the most that is known of each is kept in memory, here and at the
/// coordinator.
const MAX_FILES: usize = 100_000;
/// A job's end is told after so long although files are left: longer than a busy disk's pauses, and short for who
/// waits for the job. Nothing depends on it but when the end is told.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(30);
/// What is not home is kept for so long: a weekend and a holiday pass before anybody sees that the coordinator's disk
/// is full. It is not deleted for room: it may be the only copy of what a job was run for, and is no more than
/// that job had written anyway; a disk that gets full is a condition of the node.
pub const DEFAULT_KEEP: Duration = Duration::from_secs(7 * 86_400);

/// How far a collector is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Gathering,
    /// The tasks have ended and all is with the coordinator.
    Home,
    /// The tasks have ended, and what is not with the coordinator stays here.
    Left,
}

/// Handle to a replica's collector, which ends when it is dropped.
#[derive(Debug)]
pub struct Collector {
    files: Arc<Files>,
    ended: watch::Sender<bool>,
    phase: watch::Receiver<Phase>,
    motion: Motion,
    teller: Arc<Teller>,
    _halt: Halt,
    _running: JoinSet<()>,
}

/// Ends the work on other threads when it is dropped.
#[derive(Debug)]
struct Halt(Arc<AtomicBool>);

impl Drop for Halt {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Collector {
    /// Begins before the replica's tasks start, or when they are taken over; `None` if nothing of it
    /// comes back.
    pub fn open(files: &Arc<Files>, desired: &DesiredReplica) -> Option<Self> {
        let wanted = desired.spec.collect == Collect::All || desired.placement.node_rank == NodeRank(0);
        if !wanted {
            return None;
        }
        Self::of(files, desired.key())
    }

    /// For what is owed of a replica, whatever its job was.
    pub(super) fn of(files: &Arc<Files>, key: ReplicaKey) -> Option<Self> {
        let replica = files.replica_dir(&key);
        let failed = |error: ledger::LedgerError| {
            let message =
                format!("{error}; what its tasks write to {} does not come back", replica.display());
            files.warnings.raise("FilesNotReturned", &about(&key), message);
        };
        let laid = ledger::read::<Laid>(&Laid::file(&replica)).map_err(failed).ok()??;
        if laid.copies.is_empty() {
            return None;
        }
        if let Err(error) = Owed::Files.mark(&replica) {
            failed(error);
        }
        let (ended, phase) = (watch::Sender::new(false), watch::Sender::new(Phase::Gathering));
        let handle = phase.subscribe();
        let teller = Arc::new(Teller::new(files, key.clone()));
        let gatherer = Gatherer::new(files.clone(), key, laid.copies, ended.subscribe(), teller.clone());
        let (motion, halt) = (gatherer.motion.clone(), Halt(gatherer.halt.clone()));
        let mut running = JoinSet::new();
        running.spawn(gatherer.run(phase));
        Some(Self {
            files: files.clone(),
            ended,
            phase: handle,
            motion,
            teller,
            _halt: halt,
            _running: running,
        })
    }

    /// The tasks have ended: resolves when all that they changed is home, or will not be soon.
    pub fn drain(&self) -> impl Future<Output = ()> + Send + use<> {
        self.ended.send_replace(true);
        let (mut phase, motion, teller) = (self.phase.clone(), self.motion.clone(), self.teller.clone());
        let (there, patience) = (self.files.link.there(), self.files.patience);
        async move {
            let stuck = tokio::select! {
                biased;
                // An error means that the collector is gone, and nothing is left to wait for.
                _ = phase.wait_for(|phase| *phase != Phase::Gathering) => false,
                () = motion.stuck(there, patience) => true,
            };
            if stuck {
                teller.end_told();
                if *phase.borrow() != Phase::Gathering {
                    teller.over();
                }
            }
        }
    }

    /// The replica's end was told by an earlier agent.
    pub(crate) fn resume_ended(&self) {
        if *self.phase.borrow() == Phase::Gathering {
            self.teller.end_told();
        }
        self.ended.send_replace(true);
    }

    /// Once the tasks have ended: resolves when all that they changed is home, and not before.
    pub(super) async fn home(&self) {
        let mut phase = self.phase.clone();
        if phase.wait_for(|phase| *phase == Phase::Home).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Notes every file of a copy that was just made as being what it was: only what changes from here on is
/// looked at. Blocking.
pub(super) fn begin(replica: &Path, copy: &OwnCopy, manifest: &Manifest) -> io::Result<()> {
    let (mut scan, start) = (Scan::default(), judge::Start::of(manifest));
    scan.add(copy.place, copy, replica)?;
    let settled = |file: scan::Seen| {
        let digest = start.digest(&file.path);
        let settled = Settled { stamp: file.stamp, digest, mode: file.mode, returned: false, stays: false };
        ((file.copy, file.path), settled)
    };
    let settled: HashMap<_, _> = scan.files.into_iter().map(settled).collect();
    let (mut journal, _) = Journal::open(replica)?;
    journal.add(settled.iter(), settled.iter())
}

/// What must go with the replica's mounts. Blocking.
pub(super) fn forget(replica: &Path) -> io::Result<()> {
    super::remove_all(&Journal::file(replica))
}

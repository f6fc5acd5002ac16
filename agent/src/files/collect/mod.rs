//! What comes back: the files that a replica's tasks added or changed in its writable mounts.
//!
//! One collector for each replica whose files are wanted: node rank 0's, or with `collect: all` every
//! one's. It goes *watching* → *draining* (the tasks have ended) → *drained*.
//!
//! Every second it looks through the copies (`scan`); what has come to rest (`looks`) is hashed
//! (`judge`), sent and reported (`send`), and noted (`journal`). Draining, all that differs from the
//! start goes, at rest or not. Deletions, links, sockets and the like do not travel.
//!
//! Failures: a coordinator that is away is tried until it is back, with a condition after a while. A newer
//! generation ends it. What exceeds the limits stays on the node until the replica is removed, with a
//! condition; so does what a drain could not send in time.

mod journal;
mod judge;
mod looks;
mod run;
mod scan;
mod send;
mod writers;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use convoke_model::{Collect, DesiredReplica, NodeRank, ReplicaKey};
use convoke_tree::Manifest;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::journal::Journal;
use self::looks::{Looks, Settled};
use self::run::Gatherer;
use self::scan::Scan;
use super::Files;
use super::laid::{Laid, OwnCopy};
use crate::ledger;
use crate::work::about;

/// Bytes that one replica may bring home by default: what a coordinator's disk and a submitter's can be
/// expected to take.
pub const DEFAULT_LIMIT: u64 = 100 << 30;
/// Files that one replica may bring home: the most that is known of each is kept in memory, here and at the
/// coordinator.
const MAX_FILES: usize = 100_000;
/// How long an ended replica's last files may take. A coordinator that is away for longer never
/// gets them.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(600);

/// Handle to a replica's collector, which ends when it is dropped.
#[derive(Debug)]
pub struct Collector {
    files: Arc<Files>,
    key: ReplicaKey,
    ended: watch::Sender<bool>,
    drained: watch::Receiver<bool>,
    _running: JoinSet<()>,
}

impl Collector {
    /// Begins before the replica's tasks start, or when they are taken over; `None` if nothing of it
    /// comes back.
    pub fn open(files: &Arc<Files>, desired: &DesiredReplica) -> Option<Self> {
        let wanted = desired.spec.collect == Collect::All || desired.placement.node_rank == NodeRank(0);
        if !wanted {
            return None;
        }
        let key = desired.key();
        let laid = ledger::read::<Laid>(&Laid::file(&files.replica_dir(&key))).unwrap_or_else(|error| {
            files.warnings.raise(
                "FilesNotReturned",
                &about(&key),
                format!("{error}; its files do not come back"),
            );
            None
        });
        let copies = laid?.copies;
        if copies.is_empty() {
            return None;
        }
        let (ended, drained) = (watch::Sender::new(false), watch::Sender::new(false));
        let handle = drained.subscribe();
        let gatherer = Gatherer::new(files.clone(), key.clone(), copies, ended.subscribe(), drained);
        let mut running = JoinSet::new();
        running.spawn(gatherer.run());
        Some(Self { files: files.clone(), key, ended, drained: handle, _running: running })
    }

    /// The tasks have ended: resolves when all that they changed is home, or will never be.
    pub fn drain(&self) -> impl Future<Output = ()> + Send + use<> {
        self.ended.send_replace(true);
        let (files, key, mut drained) = (self.files.clone(), self.key.clone(), self.drained.clone());
        async move {
            // An error means that the collector is gone, and nothing is left to wait for.
            let waiting = drained.wait_for(|drained| *drained);
            if tokio::time::timeout(DRAIN_TIMEOUT, waiting).await.is_err() {
                files.warnings.raise(
                    "FilesNotReturned",
                    &about(&key),
                    format!(
                        "{} ended {} s ago and its last files are still not with the coordinator; they are in {} \
                         on node {} until the replica is removed",
                        about(&key),
                        DRAIN_TIMEOUT.as_secs(),
                        Laid::mounts(&files.replica_dir(&key)).display(),
                        files.node
                    ),
                );
            }
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
        let settled = Settled { stamp: file.stamp, digest, mode: file.mode, returned: false };
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

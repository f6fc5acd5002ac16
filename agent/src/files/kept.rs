//! What outlives its replica: output that is not home.
//!
//! The replica's directory stays where it is, without record, mounts, grants and container; `owed` marks it. The agent,
//! and each later one, goes on sending from it, until all is home, or until it has been kept for `--keep-files`: then
//! it is deleted, and said to be. Only time ends it: neither a full disk nor a coordinator that does not know the
//! job.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use convoke_model::{Condition, ReplicaKey};
use tracing::{info, warn};

use super::collect::Collector;
use super::laid::Laid;
use super::{Files, grants, overlay, owed, remove_all};
use crate::blocking::blocking;
use crate::clock::now;
use crate::home::replica_of;
use crate::ledger;
use crate::work::about;

/// Pause before another try to delete what is home.
const RETRY: Duration = Duration::from_secs(5);

/// How the keeping ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    Home,
    /// It was deleted without being home.
    GivenUp,
}

impl Files {
    /// The replica goes: takes down what holds more than its files, and says whether something stays.
    pub async fn keep(&self, key: &ReplicaKey) -> Result<bool, String> {
        let turn = self.turns.take(key.clone()).await;
        let replica = self.replica_dir(key);
        let keeping = blocking(move || {
            let _turn = turn;
            owed::any(&replica).then(|| strip(&replica)).transpose().map_err(|e| {
                format!("what stays of a replica in {} cannot be kept there: {e}", replica.display())
            })
        });
        Ok(keeping.await.flatten()?.is_some())
    }

    /// Replicas of which only what is owed is there. Blocking; for the start.
    pub fn kept(&self) -> BTreeSet<ReplicaKey> {
        let entries = fs::read_dir(self.home.replicas_dir()).into_iter().flatten().flatten();
        let kept = entries.map(|entry| entry.path()).filter(|path| is_kept(path));
        kept.filter_map(|path| key_of(&path)).filter(|key| is_kept(&self.replica_dir(key))).collect()
    }

    /// Sends what is kept until it is home, and then deletes it; in the end deletes it in any case.
    pub async fn see_off(self: Arc<Self>, key: ReplicaKey, collector: Option<Collector>) -> Kept {
        let replica = self.replica_dir(&key);
        let collector = collector.or_else(|| {
            owed::Owed::Files.is_marked(&replica).then(|| Collector::of(&self, key.clone())).flatten()
        });
        let dir = replica.clone();
        let since = blocking(move || owed::since(&dir)).await.unwrap_or_else(|_| now());
        let left = self.keep.saturating_sub(now().since(since));
        info!(job = %key.job, "what is not home of it stays in {}", replica.display());
        let home = async {
            match &collector {
                Some(collector) => {
                    collector.resume_ended();
                    collector.home().await;
                }
                None => std::future::pending().await,
            }
            // Checkpoints that cannot be stored have nobody who sends them.
            if owed::any(&replica) {
                std::future::pending().await
            }
        };
        let outcome = match tokio::time::timeout(left, home).await {
            Ok(()) => Kept::Home,
            Err(_) => Kept::GivenUp,
        };
        drop(collector);
        if outcome == Kept::GivenUp {
            self.give_up(&key, &replica);
        }
        while let Err(problem) = self.delete(&key).await {
            warn!(job = %key.job, "{problem}");
            tokio::time::sleep(RETRY).await;
        }
        outcome
    }

    fn give_up(&self, key: &ReplicaKey, replica: &Path) {
        for name in
            [Condition::RETURNING_FILES, Condition::FILES_NOT_RETURNED, Condition::CHECKPOINT_NOT_STORED]
        {
            self.warnings.clear(name, &about(key));
        }
        let message = format!(
            "files of {} that were not returned for {} are deleted from {} on node {}; run the job again if they are \
             needed, with an agent that keeps them for longer (--keep-files)",
            about(key),
            humantime::format_duration(self.keep),
            replica.display(),
            self.node
        );
        self.warnings.raise("FilesGivenUp", &about(key), message);
    }

    async fn delete(&self, key: &ReplicaKey) -> Result<(), String> {
        self.remove(key).await?;
        let replica = self.replica_dir(key);
        let path = replica.clone();
        let removed = blocking(move || remove_all(&path).map_err(|e| e.to_string())).await.flatten();
        removed.map_err(|e| format!("{} cannot be removed: {e}", replica.display()))
    }
}

/// True for what an agent left to be kept, and no replica uses.
pub(super) fn is_kept(replica: &Path) -> bool {
    owed::any(replica) && !replica.join(ledger::RECORD).exists()
}

fn strip(replica: &Path) -> io::Result<()> {
    let other = |error: ledger::LedgerError| io::Error::other(format!("{error}"));
    owed::begin(replica).map_err(other)?;
    overlay::unmount_below(replica)?;
    remove_all(&grants::directory(replica))?;
    // The shared trees are not mounted any more: the cache may drop them.
    if let Some(laid) = ledger::read::<Laid>(&Laid::file(replica)).map_err(other)? {
        let laid = Laid { trees: Vec::new(), ..laid };
        ledger::write(&Laid::file(replica), &laid).map_err(other)?;
    }
    // Last: from here on it is nobody's replica.
    remove_all(&replica.join(ledger::RECORD))
}

fn key_of(replica: &Path) -> Option<ReplicaKey> {
    replica_of(replica.file_name()?.to_str()?)
}

//! A replica's share: laid out before its tasks start, taken down when it is forgotten.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use convoke_model::{DesiredReplica, ReplicaKey};
use tracing::{info, warn};

use super::laid::Laid;
use super::layout::Layout;
use super::plan::{Plan, checked};
use super::{Files, HostMount, collect, grants, kept, overlay, remove_all};
use crate::blocking::blocking;
use crate::ledger;
use crate::work::Refusal;

impl Files {
    /// Makes the sources of a replica's mounts; nothing is left of it if that fails.
    pub async fn lay_out(
        &self,
        desired: &DesiredReplica,
        image_user: &str,
    ) -> Result<Vec<HostMount>, Refusal> {
        let key = desired.key();
        let plan = checked(Plan::of(&desired.spec, &self.node)?, &self.node).await?;
        if kept::is_kept(&self.replica_dir(&key)) {
            let replica = self.replica_dir(&key).display().to_string();
            return Err(Refusal::for_now(format!(
                "{replica} keeps files of an earlier replica of that name"
            )));
        }
        self.remove(&key).await.map_err(Refusal::for_now)?;
        let made = Layout::new(self, desired, image_user).make(plan).await;
        if made.is_err()
            && let Err(problem) = self.remove(&key).await
        {
            warn!(job = %key.job, "{problem}; it is removed with the replica");
        }
        made
    }

    /// Takes down everything of a replica; nothing there is fine.
    pub async fn remove(&self, key: &ReplicaKey) -> Result<(), String> {
        let turn = self.turns.take(key.clone()).await;
        let replica = self.replica_dir(key);
        let removed = blocking(move || {
            let _turn = turn;
            take_down(&replica).map_err(|e| format!("what is laid out in {} stays: {e}", replica.display()))
        });
        removed.await?
    }

    /// Takes down what belongs to a replica that has no record, and is not one of `known`. Blocking;
    /// for the start.
    pub fn sweep(&self, known: &BTreeSet<ReplicaKey>) {
        let known: BTreeSet<PathBuf> = known.iter().map(|key| self.replica_dir(key)).collect();
        let entries = fs::read_dir(self.home.replicas_dir()).into_iter().flatten().flatten();
        for replica in entries.map(|entry| entry.path()) {
            if known.contains(&replica) || replica.join(ledger::RECORD).exists() || kept::is_kept(&replica) {
                continue;
            }
            match take_down(&replica).and_then(|()| remove_all(&replica)) {
                Ok(()) => info!("what a replica left at {} is removed", replica.display()),
                Err(error) => warn!("what a replica left at {} stays: {error}", replica.display()),
            }
        }
    }
}

/// Mounts first: deleting through one would be another deed.
fn take_down(replica: &Path) -> io::Result<()> {
    overlay::unmount_below(replica)?;
    remove_all(&Laid::mounts(replica))?;
    remove_all(&grants::directory(replica))?;
    collect::forget(replica)?;
    remove_all(&Laid::file(replica))
}

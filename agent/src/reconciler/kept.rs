//! What outlives its replica: reported as one that has ended, for its job's people to see.

use std::collections::BTreeSet;

use convoke_model::{ObservedReplica, ReplicaKey, ReplicaPhase};
use tokio::task::{JoinError, JoinSet};
use tracing::{error, info};

use super::Reconciler;
use crate::files::collect::Collector;
use crate::files::kept::Kept;
use crate::host::Host;
use crate::work::about;

/// Those that are reported: far below what a coordinator takes of a node, and more than a person reads.
const MAX_REPORTED: usize = 1_000;

/// One future for each, with no wait but for its age.
#[derive(Default)]
pub(super) struct Keeping {
    /// Those that were given up included, until the agent ends: somebody may ask.
    known: BTreeSet<ReplicaKey>,
    running: JoinSet<(ReplicaKey, Kept)>,
}

impl Keeping {
    /// The next that is over; `None` if there is none now. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Result<(ReplicaKey, Kept), JoinError>> {
        self.running.join_next().await
    }

    pub(super) fn ended(&mut self, host: &Host, joined: Result<(ReplicaKey, Kept), JoinError>) {
        match joined {
            Ok((key, Kept::Home)) => {
                info!(job = %key.job, generation = %key.generation, "what was kept of it is home");
                host.warnings.forget(&about(&key));
                self.known.remove(&key);
            }
            Ok((_, Kept::GivenUp)) => {}
            Err(failure) => error!("keeping files failed, this is a bug in convoke-agent: {failure}"),
        }
    }
}

impl Reconciler {
    /// Keeps what a replica owes, which has a collector already where this agent ran it.
    pub(super) fn keep(&mut self, key: ReplicaKey, collector: Option<Collector>) {
        self.kept.known.insert(key.clone());
        let files = self.host.files.clone();
        self.kept.running.spawn(async move { (key.clone(), files.see_off(key, collector).await) });
    }

    pub(super) fn observe_kept(&self) -> impl Iterator<Item = ObservedReplica> {
        self.kept.known.iter().filter(|key| !self.slots.contains_key(key)).take(MAX_REPORTED).map(|key| {
            let (progress, conditions) =
                (self.host.progresses.of(key), self.host.warnings.about(&about(key)));
            ObservedReplica {
                key: key.clone(),
                phase: ReplicaPhase::Ended,
                tasks: Vec::new(),
                progress,
                conditions,
            }
        })
    }
}

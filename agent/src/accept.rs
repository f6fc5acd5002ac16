//! May this desired state be acted upon?
//!
//! Absence is an order to stop only in a complete state of the agent's own cluster that is not
//! older than the last one it accepted. Anything else is refused, and everything keeps running.

use convoke_model::{ClusterId, DesiredState, Epoch, Revision};
use serde::{Deserialize, Serialize};

/// The last desired state that was accepted, by its stamp.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub cluster: ClusterId,
    pub epoch: Epoch,
    pub revision: Revision,
}

/// Why a desired state was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error(
        "a desired state of cluster {theirs} was refused: this node belongs to cluster {own}; everything keeps \
         running. Check --coordinator, or give the agent another --state-dir to make it join the other cluster"
    )]
    ForeignCluster { own: ClusterId, theirs: ClusterId },
    #[error(
        "a desired state older than the last one was refused (epoch {epoch} revision {revision}, after epoch \
         {last_epoch} revision {last_revision}); everything keeps running. The coordinator's ledger was perhaps \
         restored from a backup"
    )]
    Older { epoch: Epoch, revision: Revision, last_epoch: Epoch, last_revision: Revision },
}

impl Refused {
    /// Stable name of the node's condition.
    pub fn condition(&self) -> &'static str {
        match self {
            Self::ForeignCluster { .. } => "ForeignDesiredState",
            Self::Older { .. } => "StaleDesiredState",
        }
    }
}

/// Checks `incoming` against the cluster that the agent belongs to and the last state accepted.
pub fn accept(own: &ClusterId, last: Option<&Stamp>, incoming: &DesiredState) -> Result<Stamp, Refused> {
    if incoming.cluster != *own {
        return Err(Refused::ForeignCluster { own: own.clone(), theirs: incoming.cluster.clone() });
    }
    let (epoch, revision) = (incoming.epoch, incoming.revision);
    match last {
        Some(last) if (epoch, revision) < (last.epoch, last.revision) => {
            Err(Refused::Older { epoch, revision, last_epoch: last.epoch, last_revision: last.revision })
        }
        _ => Ok(Stamp { cluster: incoming.cluster.clone(), epoch, revision }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str) -> ClusterId {
        ClusterId::new(name).unwrap()
    }

    fn state(name: &str, epoch: u64, revision: u64) -> DesiredState {
        DesiredState {
            cluster: cluster(name),
            epoch: Epoch(epoch),
            revision: Revision(revision),
            replicas: Vec::new(),
        }
    }

    fn stamp(epoch: u64, revision: u64) -> Stamp {
        Stamp { cluster: cluster("a"), epoch: Epoch(epoch), revision: Revision(revision) }
    }

    #[test]
    fn the_first_state_and_the_same_one_again_are_accepted() {
        assert_eq!(accept(&cluster("a"), None, &state("a", 1, 5)), Ok(stamp(1, 5)));
        assert_eq!(accept(&cluster("a"), Some(&stamp(1, 5)), &state("a", 1, 5)), Ok(stamp(1, 5)));
    }

    #[test]
    fn another_clusters_state_is_refused_however_new() {
        let refused = accept(&cluster("a"), Some(&stamp(1, 5)), &state("b", 9, 9)).unwrap_err();
        assert_eq!(refused, Refused::ForeignCluster { own: cluster("a"), theirs: cluster("b") });
    }

    #[test]
    fn an_older_revision_of_the_same_epoch_is_refused() {
        let refused = accept(&cluster("a"), Some(&stamp(1, 5)), &state("a", 1, 4)).unwrap_err();
        assert_eq!(refused.condition(), "StaleDesiredState");
    }

    #[test]
    fn an_older_epoch_is_refused_even_with_a_newer_revision() {
        assert!(accept(&cluster("a"), Some(&stamp(2, 5)), &state("a", 1, 99)).is_err());
        assert!(accept(&cluster("a"), Some(&stamp(2, 5)), &state("a", 3, 1)).is_ok());
    }
}

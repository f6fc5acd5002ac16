//! Where training stands, as `state.json` of a checkpoint keeps it.

use serde::{Deserialize, Serialize};

/// The next batch to train on, and what it means in which world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Of this file's format.
    pub version: u32,
    pub seed: u64,
    pub world_size: u32,
    pub batch_per_rank: u32,
    /// Optimiser steps done.
    pub step: u64,
    /// Epochs done.
    pub epoch: u64,
    /// Batches of this epoch done.
    pub batch: u64,
    pub samples_seen: u64,
    /// Sum of this epoch's losses so far.
    pub epoch_loss: f64,
}

impl Progress {
    /// Version of the format.
    pub const VERSION: u32 = 1;

    /// Before the first step.
    pub fn start(seed: u64, world_size: u32, batch_per_rank: u32) -> Self {
        Self {
            version: Self::VERSION,
            seed,
            world_size,
            batch_per_rank,
            step: 0,
            epoch: 0,
            batch: 0,
            samples_seen: 0,
            epoch_loss: 0.0,
        }
    }

    /// The same position for another world: as many samples of the epoch done, rounded down to whole
    /// batches. `None` if nothing changes.
    pub fn rescaled(&self, world_size: u32, batch_per_rank: u32) -> Option<Self> {
        if (world_size, batch_per_rank) == (self.world_size, self.batch_per_rank) {
            return None;
        }
        let samples = |ranks: u32, batch: u32| u64::from(ranks) * u64::from(batch);
        let done = self.batch.saturating_mul(samples(self.world_size, self.batch_per_rank));
        let batch = done / samples(world_size, batch_per_rank);
        // The epoch's mean stays what it was.
        let epoch_loss =
            if self.batch == 0 { 0.0 } else { self.epoch_loss / self.batch as f64 * batch as f64 };
        Some(Self { world_size, batch_per_rank, batch, epoch_loss, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_epoch_stays_half_an_epoch_in_another_world() {
        let four = Progress { batch: 18, epoch_loss: 9.0, ..Progress::start(1, 4, 64) };
        assert_eq!(four.rescaled(4, 64), None);
        let two = four.rescaled(2, 64).unwrap();
        assert_eq!((two.batch, two.epoch_loss, two.world_size), (36, 18.0, 2));
        assert_eq!(four.rescaled(8, 64).unwrap().batch, 9);
        assert_eq!(four.rescaled(5, 64).unwrap().batch, 14);
    }
}

//! Which samples a rank sees in an epoch: the partition of `torch.utils.data.DistributedSampler`.
//!
//! Every epoch is one permutation, the same on every rank, filled up by its own beginning so that it
//! divides evenly; rank `r` of `w` takes places `r, r + w, r + 2w, …`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// One rank's view of a data set of `len` samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    len: u32,
    world_size: u32,
    rank: u32,
    seed: u64,
}

impl Sampler {
    /// `rank` is less than `world_size`.
    pub fn new(len: u32, world_size: u32, rank: u32, seed: u64) -> Self {
        assert!(rank < world_size, "rank {rank} of {world_size}");
        Self { len, world_size, rank, seed }
    }

    /// Samples that every rank gets in an epoch.
    pub fn samples_per_rank(&self) -> usize {
        self.len.div_ceil(self.world_size) as usize
    }

    /// Batches of `batch` samples that every rank gets in an epoch; the last may be smaller.
    pub fn batches(&self, batch: usize) -> usize {
        self.samples_per_rank().div_ceil(batch)
    }

    /// This rank's samples of `epoch`, in order. To resume in its middle, skip the batches done.
    pub fn epoch(&self, epoch: u64) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.len).collect();
        shuffle(&mut order, self.seed.wrapping_add(epoch));
        let mine = self.rank as usize..;
        let places = mine.step_by(self.world_size as usize).take(self.samples_per_rank());
        places.map(|place| order[place % order.len()]).collect()
    }
}

/// Fisher and Yates. Written out, so that no new version of a library changes what a seed means.
fn shuffle(items: &mut [u32], seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for last in (1..items.len()).rev() {
        let places = last as u128 + 1;
        let other = (u128::from(random.next_u64()) * places) >> 64;
        items.swap(last, other as usize);
    }
}

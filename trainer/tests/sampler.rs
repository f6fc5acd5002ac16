//! The partition of `torch.utils.data.DistributedSampler`.

use convoke_trainer::Sampler;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_rank_gets_as_many_and_together_they_get_everything(
        len in 1u32..300, world in 1u32..9, seed: u64, epoch in 0u64..5,
    ) {
        let ranks: Vec<_> = (0..world).map(|r| Sampler::new(len, world, r, seed)).collect();
        let shares: Vec<_> = ranks.iter().map(|sampler| sampler.epoch(epoch)).collect();
        for (sampler, share) in ranks.iter().zip(&shares) {
            prop_assert_eq!(share.len(), sampler.samples_per_rank());
            prop_assert_eq!(share.chunks(7).len(), sampler.batches(7));
        }
        // Read across the ranks, they are one permutation, then its own beginning again.
        let share = shares[0].len();
        let whole: Vec<_> = (0..share).flat_map(|i| shares.iter().map(move |s| s[i])).collect();
        prop_assert_eq!(whole.len(), share * world as usize);
        prop_assert!(whole.len() - (len as usize) < world as usize);
        let mut once = whole[..len as usize].to_vec();
        once.sort_unstable();
        prop_assert!(once.iter().copied().eq(0..len), "not a permutation");
        for (i, sample) in whole.iter().enumerate() {
            prop_assert_eq!(*sample, whole[i % len as usize]);
        }
    }
}

#[test]
fn epochs_and_seeds_shuffle_differently_and_always_the_same() {
    let order = |seed, epoch| Sampler::new(100, 1, 0, seed).epoch(epoch);
    assert_eq!(order(1, 0), order(1, 0));
    assert_ne!(order(1, 0), order(1, 1));
    assert_ne!(order(1, 0), order(2, 0));
    assert_ne!(order(1, 0), (0..100).collect::<Vec<_>>());
}

#[test]
fn an_order_once_given_stays() {
    // A checkpoint in the middle of an epoch is only worth something while this holds.
    assert_eq!(Sampler::new(10, 1, 0, 42).epoch(3), [7, 1, 3, 8, 6, 2, 0, 5, 9, 4]);
}

#[test]
fn an_empty_data_set_has_no_batches() {
    let sampler = Sampler::new(0, 4, 1, 1);
    assert_eq!((sampler.epoch(0).len(), sampler.batches(64)), (0, 0));
}

//! What becomes of a rank whose peers do not come, fall silent, or leave. Each is given longer than its
//! deadline, in a thread, so that one that hangs fails.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use convoke_trainer::Sampler;
use convoke_trainer::collective::nccl::Nccl;
use convoke_trainer::collective::tcp::Options;
use convoke_trainer::collective::{CollectiveError, ConnectError, MemoryExchange};
use convoke_trainer::device::Precision;
use convoke_trainer::device::cuda::Gpu;
use convoke_trainer::mnist::gpu::{GpuTrainer, Ranks};
use convoke_trainer::mnist::run::{Device as _, Stretch, TrainError};
use convoke_trainer::mnist::state::State;

use crate::twin::Noise;

/// Name, GPUs, test.
pub(crate) const TESTS: [(&str, u32, fn()); 4] = [
    ("a_peer_that_never_comes_is_an_error_within_the_deadline", 1, alone),
    ("a_silence_is_an_error_and_so_is_every_sum_after_it", 1, silence),
    ("two_gpus_have_the_same_bits_after_an_epoch", 2, together),
    ("a_rank_that_leaves_ends_the_other_within_the_timeout", 2, left_behind),
];

const DEADLINE: Duration = Duration::from_secs(3);
/// NCCL's own start takes a second.
const PATIENT: Duration = Duration::from_secs(40);

fn options(rank: u32, world_size: u32, connect_timeout: Duration) -> Options {
    let address = std::net::Ipv4Addr::LOCALHOST.into();
    Options { rank, world_size, address, group: "world".to_owned(), connect_timeout, timeout: DEADLINE }
}

fn in_time<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || done.send(test()));
    result.recv_timeout(PATIENT).expect("it hangs, or has failed")
}

fn alone() {
    in_time(|| {
        let gpu = Gpu::open(0).unwrap();
        let began = Instant::now();
        let error = Nccl::connect(&options(0, 2, DEADLINE), &MemoryExchange::default(), &gpu.context);
        let error = error.err().expect("there is nobody to connect to");
        assert!(matches!(error, ConnectError::Absent { after } if after == DEADLINE), "{error}");
        assert!(began.elapsed() >= DEADLINE);
    });
}

fn silence() {
    in_time(|| {
        let gpu = Gpu::open(0).unwrap();
        let nccl = Nccl::connect(&options(0, 1, PATIENT), &MemoryExchange::default(), &gpu.context).unwrap();
        assert_eq!(nccl.failure(), None);
        nccl.alive();
        let failure = loop {
            match nccl.failure() {
                Some(failure) => break failure,
                None => std::thread::yield_now(),
            }
        };
        assert!(
            matches!(&failure, CollectiveError::Nccl { reason } if reason.contains("within 3 s")),
            "{failure}"
        );
        let sums = gpu.context.new_stream().unwrap();
        // SAFETY: refused before the address is looked at.
        assert_eq!(unsafe { nccl.all_reduce_sum(&sums, 0, 1) }, Err(failure));
    });
}

/// Each rank in a thread, for so many epochs.
fn train(epochs: [u64; 2]) -> [Result<State<f32>, TrainError>; 2] {
    let exchange = Arc::new(MemoryExchange::default());
    let ranks = [0, 1].map(|rank: u32| {
        let exchange = Arc::clone(&exchange);
        std::thread::spawn(move || {
            let gpu = Gpu::open(rank).unwrap();
            let nccl = Nccl::connect(&options(rank, 2, PATIENT), exchange.as_ref(), &gpu.context).unwrap();
            let ranks = Ranks::Nccl { rank, world_size: 2, nccl };
            let mut trainer = GpuTrainer::new(gpu, ranks, Precision::Tf32, 16, 5, DEADLINE).unwrap();
            let digits = Noise::new(1).digits(320);
            let sampler: Sampler = trainer.sampler(digits.len());
            for epoch in 0..epochs[rank as usize] {
                let (order, stop) = (sampler.epoch(epoch), AtomicBool::new(false));
                trainer.progress().batch = 0;
                let stretch =
                    Stretch { digits: &digits, order: &order, until: 10, checkpoints: None, stop: &stop };
                trainer.advance(&stretch, &mut |_| Ok(()))?;
            }
            Ok(trainer.state()?)
        })
    });
    ranks.map(|rank| rank.join().unwrap())
}

fn together() {
    let [first, second] = in_time(|| train([1, 1]));
    assert!(first.unwrap() == second.unwrap());
}

fn left_behind() {
    let [stayed, left] = in_time(|| train([2, 1]));
    left.unwrap();
    let error = stayed.expect_err("a sum with nobody");
    assert!(matches!(error, TrainError::Collective(CollectiveError::Nccl { .. })), "{error}");
}

//! Rings between the threads of one process.

use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Barrier, Condvar, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::collective::{Collective, Loss, MemoryExchange};

fn options(rank: u32, world_size: u32, timeout: Duration) -> Options {
    Options {
        rank,
        world_size,
        address: Ipv4Addr::LOCALHOST.into(),
        group: "world".to_owned(),
        connect_timeout: Duration::from_secs(20),
        timeout,
    }
}

/// Runs `work` on every rank of a ring and returns what each returned.
fn with_ring<R: Send>(ranks: u32, timeout: Duration, work: impl Fn(Ring) -> R + Sync) -> Vec<R> {
    let exchange = MemoryExchange::default();
    std::thread::scope(|scope| {
        let start = |rank| {
            let (work, exchange) = (&work, &exchange);
            scope.spawn(move || work(Ring::connect(&options(rank, ranks, timeout), exchange).unwrap()))
        };
        let threads: Vec<_> = (0..ranks).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

const PATIENT: Duration = Duration::from_secs(20);

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn all_reduce_sums_any_length_over_any_number_of_ranks(
        ranks in 1u32..=5,
        length in prop_oneof![0usize..20, Just(70_001usize), Just(400_003)],
        seed in 0u32..1000,
    ) {
        // Small integers: their sums are exact in any order.
        let value = |rank: u32, i: usize| f64::from((seed + 31 * rank + i as u32) % 97);
        let sums = with_ring(ranks, PATIENT, |mut ring| {
            let mut values: Vec<f64> = (0..length).map(|i| value(ring.rank, i)).collect();
            ring.all_reduce_sum(&mut values).unwrap();
            values
        });
        let expected: Vec<f64> = (0..length).map(|i| (0..ranks).map(|r| value(r, i)).sum()).collect();
        for sum in sums {
            prop_assert!(sum == expected);
        }
    }

    #[test]
    fn broadcast_gives_every_rank_the_roots_values(
        ranks in 1u32..=5, root in 0u32..5, length in prop_oneof![0usize..5, Just(150_000usize)],
    ) {
        let root = root % ranks;
        let all = with_ring(ranks, PATIENT, |mut ring| {
            let mut values = vec![ring.rank as f32; length];
            ring.broadcast(root, &mut values).unwrap();
            values
        });
        for values in all {
            prop_assert!(values == vec![root as f32; length]);
        }
    }
}

#[test]
fn every_rank_gets_the_same_bits_and_a_second_run_gets_them_again() {
    let run = || {
        with_ring(4, PATIENT, |mut ring| {
            let mut values: Vec<f32> =
                (0..1001).map(|i| 1.0 / (1.0 + i as f32 + 7.3 * ring.rank as f32)).collect();
            ring.all_reduce_sum(&mut values).unwrap();
            values.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        })
    };
    let (first, second) = (run(), run());
    assert!(first.iter().all(|bits| *bits == first[0]));
    assert_eq!(first, second);
}

#[test]
fn nobody_leaves_a_barrier_before_the_last_has_come() {
    let inside = std::sync::atomic::AtomicU32::new(0);
    let seen = with_ring(4, PATIENT, |mut ring| {
        inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Collective::<f32>::barrier(&mut ring).unwrap();
        inside.load(std::sync::atomic::Ordering::SeqCst)
    });
    assert_eq!(seen, [4; 4]);
}

#[test]
fn a_rank_that_dies_in_the_middle_of_a_reduction_is_named_to_every_other() {
    for dead in 0..4 {
        let errors = with_ring(4, PATIENT, |mut ring| {
            let mut values = vec![1.0f32; 300_000];
            let first = ring.all_reduce_sum(&mut values);
            if ring.rank == dead {
                // As a killed process does: connections close in the middle of an operation and
                // nobody says bye.
                first.unwrap();
                ring.enter::<f32>(ring::Kind::AllReduce, values.len()).unwrap();
                drop(ring.links.take());
                return None;
            }
            // A slow rank may still be in the first one when the news comes.
            let error = first.and_then(|()| ring.all_reduce_sum(&mut values)).unwrap_err();
            assert_eq!(ring.all_reduce_sum(&mut values).unwrap_err(), error, "it stays broken");
            Some(error)
        });
        for error in errors.into_iter().flatten() {
            let CollectiveError::PeerLost { rank, loss, .. } = error else { panic!("{error}") };
            assert_eq!((rank, loss), (dead, Loss::Gone));
        }
    }
}

#[test]
fn a_rank_that_hangs_is_named_to_every_other_within_the_deadline() {
    for hung in [0, 2] {
        let impatient = Duration::from_secs(1);
        // The hung rank comes here at once, the others with their errors.
        let all_know = Barrier::new(4);
        let errors = with_ring(4, impatient, |mut ring| {
            if ring.rank == hung {
                all_know.wait();
                return None;
            }
            let error = ring.all_reduce_sum(&mut [1.0f32; 100]).unwrap_err();
            all_know.wait();
            Some(error)
        });
        for error in errors.into_iter().flatten() {
            let CollectiveError::PeerLost { rank, loss, .. } = error else { panic!("{error}") };
            assert_eq!((rank, loss), (hung, Loss::Stalled(impatient)));
        }
    }
}

#[test]
fn a_rank_that_leaves_while_others_still_wait_is_named() {
    for leaver in [0, 1] {
        let errors = with_ring(3, PATIENT, |mut ring| {
            if ring.rank == leaver { None } else { Some(ring.all_reduce_sum(&mut [1.0f64]).unwrap_err()) }
        });
        for error in errors.into_iter().flatten() {
            let CollectiveError::PeerLost { rank, loss, .. } = error else { panic!("{error}") };
            assert_eq!((rank, loss), (leaver, Loss::Left));
        }
    }
}

#[test]
fn ranks_that_disagree_about_the_operation_are_told_so() {
    let errors = with_ring(2, PATIENT, |mut ring| {
        let mut values = vec![0.0f32; 3 + ring.rank as usize];
        ring.all_reduce_sum(&mut values).unwrap_err()
    });
    assert!(
        errors.iter().any(|e| e.to_string().contains("operation 0, all-reduce of 12 bytes")),
        "{errors:?}"
    );
}

#[test]
fn a_broadcast_from_a_rank_that_does_not_exist_is_refused() {
    let error = Ring::alone().broadcast(3, &mut [0.0f32]).unwrap_err();
    assert_eq!(error, CollectiveError::NoSuchRank { root: 3, world_size: 1 });
}

#[test]
fn a_stranger_on_the_bootstrap_port_disturbs_nobody() {
    let exchange = MemoryExchange::default();
    let connected = std::thread::scope(|scope| {
        let join = |rank| {
            let exchange = &exchange;
            scope.spawn(move || Ring::connect(&options(rank, 2, PATIENT), exchange))
        };
        let first = join(0);
        let (root, nonce) = read_id(&exchange.fetch("world", PATIENT).unwrap()).unwrap();
        let ring = "127.0.0.1:1".parse().unwrap();
        let hello = Hello { purpose: Purpose::Control, rank: 1, world_size: 2, ring };
        let mut wrong = nonce;
        wrong[0] ^= 1;
        hello.send(&wrong, &TcpStream::connect(root).unwrap()).unwrap();
        let second = join(1);
        [first, second].map(|thread| thread.join().unwrap().is_ok())
    });
    assert_eq!(connected, [true, true]);
}

#[test]
fn a_second_rank_of_the_same_number_and_another_world_size_are_refused_by_name() {
    let exchange = MemoryExchange::default();
    let (done, ended) = (Mutex::new(false), Condvar::new());
    std::thread::scope(|scope| {
        let (exchange, done, ended) = (&exchange, &done, &ended);
        scope.spawn(move || {
            let short = Options { connect_timeout: Duration::from_secs(2), ..options(0, 3, PATIENT) };
            let error = Ring::connect(&short, exchange).err().unwrap();
            assert!(error.to_string().contains("no connection from rank 1, 2 in time"), "{error}");
            *done.lock().unwrap() = true;
            ended.notify_all();
        });
        let (root, nonce) = read_id(&exchange.fetch("world", PATIENT).unwrap()).unwrap();
        let ring = "127.0.0.1:1".parse().unwrap();
        let answer = |rank, world_size| {
            let stream = TcpStream::connect(root).unwrap();
            Hello { purpose: Purpose::Control, rank, world_size, ring }.send(&nonce, &stream).unwrap();
            receive_table(&stream, world_size).unwrap().unwrap_err()
        };
        assert_eq!(answer(1, 4), "rank 1 counts 4 ranks, rank 0 3");
        assert_eq!(answer(7, 3), "rank 7 of a world of 3");
        let ended = ended.wait_timeout_while(done.lock().unwrap(), PATIENT, |done| !*done).unwrap();
        assert!(*ended.0);
    });
}

#[test]
fn an_id_that_something_else_made_is_refused() {
    let exchange = MemoryExchange::default();
    exchange.publish("world", &[7; 128]).unwrap();
    let error = Ring::connect(&options(1, 2, PATIENT), &exchange).err().unwrap();
    assert!(matches!(error, ConnectError::ForeignId), "{error}");
}

//! Training on threads of one process: the same numbers, however it is spread or interrupted.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use convoke_trainer::collective::MemoryExchange;
use convoke_trainer::collective::tcp::{Options, Ring};
use convoke_trainer::metrics::Metrics;
use convoke_trainer::mnist::network::PIXELS;
use convoke_trainer::mnist::run::{Device as _, End, Plan, train};
use convoke_trainer::mnist::{Digits, Trainer};

const PATIENT: Duration = Duration::from_secs(30);

/// Noise that looks like nothing, with labels to learn by heart.
fn digits(count: usize) -> Digits {
    let mut state = 99u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let images = (0..count * PIXELS).map(|_| next()).collect();
    Digits { images, labels: (0..count).map(|_| next() % 10).collect() }
}

/// Runs `work` on every rank of a ring.
fn on_ranks<R: Send>(ranks: u32, work: impl Fn(u32, Ring) -> R + Sync) -> Vec<R> {
    let exchange = MemoryExchange::default();
    std::thread::scope(|scope| {
        let start = |rank| {
            let (work, exchange) = (&work, &exchange);
            let options = Options {
                rank,
                world_size: ranks,
                address: std::net::Ipv4Addr::LOCALHOST.into(),
                group: "world".to_owned(),
                connect_timeout: PATIENT,
                timeout: PATIENT,
            };
            scope.spawn(move || work(rank, Ring::connect(&options, exchange).unwrap()))
        };
        let threads: Vec<_> = (0..ranks).map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn four_ranks_of_16_and_one_of_64_give_the_same_gradient() {
    let digits = digits(64);
    let gradient = |ranks: u32| {
        let batch = 64 / ranks;
        let all = on_ranks(ranks, |rank, ring| {
            let mut trainer = Trainer::<f32>::new(Box::new(ring), batch, 3);
            let samples: Vec<u32> = (rank * batch..(rank + 1) * batch).collect();
            let step = trainer.step(&digits, &samples, false).unwrap();
            (step.loss, trainer.averaged_gradient().to_vec())
        });
        assert!(all.iter().all(|one| *one == all[0]), "ranks differ");
        all.into_iter().next().unwrap()
    };
    let ((loss1, one), (loss4, four)) = (gradient(1), gradient(4));
    let norm = |v: &mut dyn Iterator<Item = f32>| v.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let size = norm(&mut one.iter().copied());
    let difference = norm(&mut one.iter().zip(&four).map(|(a, b)| a - b));
    assert!(size > 0.1, "a gradient of {size} proves nothing");
    assert!(difference <= 1e-5 * size, "differs by {difference} of {size}");
    assert!((loss1 - loss4).abs() < 1e-5 * loss1, "loss {loss1} and {loss4}");
}

/// How a run of the whole loop is set up.
#[derive(Clone, Copy)]
struct Setup<'a> {
    ranks: u32,
    seed: u64,
    directory: &'a Path,
    resume_from: Option<&'a Path>,
    /// Rank 1 is asked to stop as this step begins.
    stop_at: Option<u64>,
}

const EPOCHS: u64 = 2;

/// Trains on 50 samples, batch 8 per rank; gives rank 0's end and every rank's parameters.
fn run(setup: Setup<'_>) -> (End, Vec<Vec<u32>>) {
    let digits = digits(50);
    let all = on_ranks(setup.ranks, |rank, ring| {
        let mut trainer = Trainer::<f32>::new(Box::new(ring), 8, setup.seed);
        if let Some(directory) = setup.resume_from {
            trainer.resume(directory).unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let plan = Plan {
            epochs: EPOCHS,
            began: std::time::Instant::now(),
            checkpoint_every: None,
            checkpoint_dir: Some(setup.directory.to_owned()),
            stop: Arc::clone(&stop),
            rank,
        };
        let before_step = |step| {
            if rank == 1 && setup.stop_at == Some(step) {
                stop.store(true, Ordering::Relaxed);
            }
        };
        let end = train(&mut trainer, &digits, &plan, &mut Metrics::nowhere(), before_step).unwrap();
        (end, trainer.state.parameters.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
    });
    let end = all[0].0;
    assert!(all.iter().all(|one| one.0 == end), "ranks ended differently");
    (end, all.into_iter().map(|one| one.1).collect())
}

fn files(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_interrupted_and_resumed_run_ends_with_the_same_bits_as_an_uninterrupted_one() {
    let [whole, parts] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let setup = Setup { ranks: 2, seed: 5, directory: whole.path(), resume_from: None, stop_at: None };
    let (end, uninterrupted) = run(setup);
    assert_eq!(end, End::Finished);
    // 25 samples per rank: 4 batches, the last of one sample.
    assert_eq!(names(whole.path()), ["step-4", "step-8"]);

    // In the middle of the first epoch.
    let setup = Setup { directory: parts.path(), stop_at: Some(3), ..setup };
    assert_eq!(run(setup).0, End::Stopped);
    assert_eq!(names(parts.path()), ["step-3"]);

    // In the middle of the second.
    let third = parts.path().join("step-3");
    let setup = Setup { resume_from: Some(&third), stop_at: Some(6), ..setup };
    assert_eq!(run(setup).0, End::Stopped);

    let sixth = parts.path().join("step-6");
    let (end, resumed) = run(Setup { resume_from: Some(&sixth), stop_at: None, ..setup });
    assert_eq!(end, End::Finished);
    assert!(resumed == uninterrupted, "parameters differ");
    assert!(files(&parts.path().join("step-8")) == files(&whole.path().join("step-8")), "checkpoints differ");
}

#[test]
fn the_same_seed_and_world_size_give_the_same_bits_and_another_seed_others() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup { ranks: 3, seed: 5, directory: directory.path(), resume_from: None, stop_at: None };
    let (first, second) = (run(setup).1, run(setup).1);
    assert!(first == second);
    assert!(first.iter().all(|parameters| *parameters == first[0]), "ranks drifted apart");
    assert!(run(Setup { seed: 6, ..setup }).1 != first);
}

#[test]
fn a_checkpoint_of_two_ranks_is_resumed_on_one_at_the_same_place() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup { ranks: 2, seed: 5, directory: directory.path(), resume_from: None, stop_at: Some(2) };
    run(setup);
    let second = directory.path().join("step-2");
    let mut alone = Trainer::<f32>::new(Box::new(Ring::alone()), 8, 5);
    let note = alone.resume(&second).unwrap().unwrap();
    assert!(
        note.contains("2 ranks x batch 8 resumed on 1 ranks x batch 8: batch 2 of epoch 1 became batch 4"),
        "{note}"
    );
    let setup = Setup { ranks: 1, resume_from: Some(&second), stop_at: None, ..setup };
    assert_eq!(run(setup).0, End::Finished);
    // 7 batches an epoch on one rank: 3 left of the first, 7 of the second.
    assert!(directory.path().join("step-12").exists(), "{:?}", names(directory.path()));
}

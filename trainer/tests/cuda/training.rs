//! Whole training on a GPU beside the CPU's.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use convoke_trainer::collective::MemoryExchange;
use convoke_trainer::collective::nccl::Nccl;
use convoke_trainer::collective::tcp::{Options, Ring};
use convoke_trainer::device::cuda::{Gpu, Precision};
use convoke_trainer::metrics::Metrics;
use convoke_trainer::mnist::Trainer;
use convoke_trainer::mnist::gpu::{GpuTrainer, Ranks};
use convoke_trainer::mnist::run::{Device, End, Plan, train};
use convoke_trainer::mnist::state::State;

use crate::twin::{Noise, assert_close};

pub(crate) const TESTS: [(&str, fn(Precision)); 5] = [
    ("training_gives_the_cpus_losses_and_parameters", as_the_cpu),
    ("the_same_seed_gives_the_same_bits", twice),
    ("sums_over_nccl_beside_the_backward_pass_change_no_bit", over_nccl),
    ("a_checkpoint_goes_from_gpu_to_cpu_and_back", across),
    ("a_stop_ends_all_with_the_step_that_agreed", stop),
];

const PATIENT: Duration = Duration::from_secs(20);

fn gpu_trainer(precision: Precision) -> GpuTrainer {
    GpuTrainer::new(Gpu::open(0).unwrap(), Ranks::Alone, precision, 16, 5, PATIENT).unwrap()
}

fn cpu_trainer() -> Trainer<f32> {
    Trainer::new(Box::new(Ring::alone()), 16, 5)
}

/// Trains on 150 samples, 10 batches an epoch of which the last is not full; the losses of the steps.
fn run(device: &mut dyn Device, epochs: u64, directory: &Path, stop_at: Option<u64>) -> (End, Vec<f64>) {
    let digits = Noise::new(1).digits(150);
    let stop = Arc::new(AtomicBool::new(false));
    let plan = Plan {
        epochs,
        checkpoint_every: Some(7),
        checkpoint_dir: Some(directory.to_owned()),
        stop: Arc::clone(&stop),
        rank: 0,
    };
    let file = directory.join("metrics.jsonl");
    let _ = std::fs::remove_file(&file);
    let mut metrics = Metrics::to_file(&file).unwrap();
    let before = |step| {
        if stop_at == Some(step) {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let end = train(device, &digits, &plan, &mut metrics, before).unwrap();
    let metrics = std::fs::read_to_string(&file).unwrap();
    let losses = metrics.lines().map(|line| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        record["loss"].as_f64().unwrap()
    });
    (end, losses.collect())
}

fn compare(precision: Precision, gpu: &State<f32>, cpu: &State<f32>) {
    // Adam's first steps have the size of the learning rate whatever the gradient's is, so a small
    // difference in a small gradient is a large one in the parameter: the averages tell more.
    let loose = if precision == Precision::Fp32 { Precision::Tf32 } else { Precision::Bf16 };
    assert_close(loose, "parameters", &gpu.parameters, &cpu.parameters);
    if precision == Precision::Fp32 {
        assert_close(Precision::Bf16, "exp_avg", &gpu.first, &cpu.first);
    }
}

fn as_the_cpu(precision: Precision) {
    let directory = tempfile::tempdir().unwrap();
    let (mut gpu, mut cpu) = (gpu_trainer(precision), cpu_trainer());
    let (end, got) = run(&mut gpu, 2, directory.path(), None);
    assert_eq!(end, End::Finished);
    let (_, want) = run(&mut cpu, 2, directory.path(), None);
    let floats = |losses: &[f64]| losses.iter().map(|x| *x as f32).collect::<Vec<_>>();
    assert_eq!(want.len(), 20);
    let loose = if precision == Precision::Fp32 { Precision::Tf32 } else { Precision::Bf16 };
    assert_close(loose, "losses", &floats(&got), &floats(&want));
    compare(precision, &gpu.state().unwrap(), &cpu.state);
    let (gpu, cpu) = (gpu.progress().clone(), cpu.progress.clone());
    assert_eq!(
        (gpu.step, gpu.epoch, gpu.batch, gpu.samples_seen),
        (cpu.step, cpu.epoch, cpu.batch, cpu.samples_seen)
    );
}

fn twice(precision: Precision) {
    let directory = tempfile::tempdir().unwrap();
    let state = || {
        let mut trainer = gpu_trainer(precision);
        let (_, losses) = run(&mut trainer, 3, directory.path(), None);
        (trainer.state().unwrap(), losses)
    };
    assert!(state() == state());
}

/// A world of one, which one GPU can have: its sums change nothing, so what differs is a race.
fn over_nccl(precision: Precision) {
    let directory = tempfile::tempdir().unwrap();
    let mut alone = gpu_trainer(precision);
    run(&mut alone, 3, directory.path(), None);
    let gpu = Gpu::open(0).unwrap();
    let options = Options {
        rank: 0,
        world_size: 1,
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        group: "world".to_owned(),
        connect_timeout: PATIENT,
        timeout: PATIENT,
    };
    let nccl = Nccl::connect(&options, &MemoryExchange::default(), &gpu.context).unwrap();
    let ranks = Ranks::Nccl { rank: 0, world_size: 1, nccl };
    let mut with_nccl = GpuTrainer::new(gpu, ranks, precision, 16, 5, PATIENT).unwrap();
    run(&mut with_nccl, 3, directory.path(), None);
    assert!(with_nccl.state().unwrap() == alone.state().unwrap());
}

fn across(precision: Precision) {
    let directory = tempfile::tempdir().unwrap();
    let mut gpu = gpu_trainer(precision);
    run(&mut gpu, 2, directory.path(), None);
    let (at_14, at_20) = (directory.path().join("step-14"), gpu.state().unwrap());

    // On the CPU, to the end.
    let mut cpu = cpu_trainer();
    assert_eq!(cpu.resume(&at_14).unwrap(), None);
    assert_eq!((cpu.progress.step, cpu.progress.batch), (14, 4));
    let elsewhere = tempfile::tempdir().unwrap();
    run(&mut cpu, 2, elsewhere.path(), None);
    compare(precision, &at_20, &cpu.state);

    // Back on a GPU: what was saved, to the bit, and then the same as without the detour to disk.
    let mut again = gpu_trainer(precision);
    again.resume(&at_14).unwrap();
    run(&mut again, 2, elsewhere.path(), None);
    assert!(again.state().unwrap() == at_20);
    let of_cpu = cpu.save(elsewhere.path()).unwrap();
    again.resume(&of_cpu).unwrap();
    assert!(again.state().unwrap() == cpu.state);
}

fn stop(precision: Precision) {
    let directory = tempfile::tempdir().unwrap();
    let mut trainer = gpu_trainer(precision);
    // The device works while the host asks, so the step that hears it is not known beforehand.
    let (end, losses) = run(&mut trainer, 100_000, directory.path(), Some(25));
    assert_eq!(end, End::Stopped);
    let step = trainer.progress().step;
    assert!(step >= 22, "stopped at {step}");
    assert_eq!(losses.len() as u64, step);
    let saved = directory.path().join(format!("step-{step}"));
    let mut again = gpu_trainer(precision);
    again.resume(&saved).unwrap();
    assert!(again.state().unwrap() == trainer.state().unwrap());
}

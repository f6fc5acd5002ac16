//! Whole training on a GPU beside the CPU's.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use convoke_trainer::collective::MemoryExchange;
use convoke_trainer::collective::nccl::Nccl;
use convoke_trainer::collective::tcp::{Options, Ring};
use convoke_trainer::device::Precision;
use convoke_trainer::device::cuda::Gpu;
use convoke_trainer::metrics::Metrics;
use convoke_trainer::mnist::gpu::{GpuTrainer, Ranks};
use convoke_trainer::mnist::model::{TENSORS, views};
use convoke_trainer::mnist::run::{Device, End, Plan, Stretch, train};
use convoke_trainer::mnist::{Digits, Trainer};

use crate::Test;
use crate::twin::{Noise, assert_within};

pub(crate) const TESTS: [Test; 7] = [
    ("training_gives_the_cpus_losses_gradients_and_updates", as_the_cpu),
    ("the_same_seed_gives_the_same_bits", twice),
    ("sums_over_nccl_beside_the_backward_pass_change_no_bit", over_nccl),
    ("a_checkpoint_goes_from_gpu_to_cpu_and_back", across),
    ("a_checkpoint_behind_the_steps_has_the_same_bytes", behind),
    ("pytorch_makes_the_same_logits_of_a_checkpoint", logits),
    ("a_stop_ends_all_with_the_step_that_agreed", stop),
];

const PATIENT: Duration = Duration::from_secs(20);

fn gpu_trainer(precision: Precision) -> GpuTrainer {
    GpuTrainer::new(Gpu::open(0).unwrap(), Ranks::Alone, precision, 16, 5, PATIENT).unwrap()
}

fn cpu_trainer(precision: Precision) -> Trainer<f32> {
    Trainer::new(Box::new(Ring::alone()), 16, 5).precision(precision)
}

/// 10 batches of 16, of which the last is not full.
fn digits() -> Digits {
    Noise::new(1).digits(150)
}

/// Trains on [`digits`]; the losses of the steps.
fn run(device: &mut dyn Device, epochs: u64, directory: &Path, stop_at: Option<u64>) -> (End, Vec<f64>) {
    let digits = digits();
    let stop = Arc::new(AtomicBool::new(false));
    let plan = Plan {
        epochs,
        checkpoint_every: Some(14),
        checkpoint_dir: Some(directory.to_owned()),
        stop: Arc::clone(&stop),
        rank: 0,
        began: std::time::Instant::now(),
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

fn as_the_cpu(precision: Precision) {
    let directory = tempfile::tempdir().unwrap();
    let (mut gpu, mut cpu) = (gpu_trainer(precision), cpu_trainer(precision));
    step_by_step(&mut gpu, &mut cpu, "step 1");
    let (mut gpu, mut cpu) = (gpu_trainer(precision), cpu_trainer(precision));
    let (end, got) = run(&mut gpu, 2, directory.path(), None);
    assert_eq!(end, End::Finished);
    let (_, want) = run(&mut cpu, 2, tempfile::tempdir().unwrap().path(), None);
    let floats = |losses: &[f64]| losses.iter().map(|x| *x as f32).collect::<Vec<_>>();
    assert_eq!(want.len(), 20);
    assert_within(1e-2, "losses", &floats(&got), &floats(&want));
    assert_eq!(place(&mut gpu), place(&mut cpu));
    for step in [14, 20] {
        let saved = directory.path().join(format!("step-{step}"));
        gpu.resume(&saved).unwrap();
        cpu.resume(&saved).unwrap();
        step_by_step(&mut gpu, &mut cpu, &format!("step {}", step + 1));
    }
}

fn place(device: &mut dyn Device) -> (u64, u64, u64, u64) {
    let at = device.progress();
    (at.step, at.epoch, at.batch, at.samples_seen)
}

/// A step of each from the same state. Parameters after many steps tell less: Adam moves a parameter
/// by the learning rate whatever its gradient's size, so one that is all rounding goes either way.
fn step_by_step(gpu: &mut GpuTrainer, cpu: &mut Trainer<f32>, what: &str) {
    let before = gpu.state().unwrap();
    assert!(before == cpu.state, "{what}: not from the same state");
    [gpu as &mut dyn Device, cpu].into_iter().for_each(one_step);
    let after = gpu.state().unwrap();
    let gradient = |average: &[f32]| -> Vec<f32> {
        average.iter().zip(&before.first).map(|(after, before)| (after - 0.9 * before) / 0.1).collect()
    };
    let (got, want) = (gradient(&after.first), gradient(&cpu.state.first));
    for ((tensor, got), want) in TENSORS.iter().zip(views(&got)).zip(views(&want)) {
        // Both round alike, so only the order of sums differs. Behind the pooling it decides, once in
        // some steps, which of two pixels wins, and with it where a gradient goes: one such in a batch of
        // 16 is sqrt(2 / 50,000) of the norm, 0.6 %.
        let tolerance = if tensor.name < "7" { 2e-2 } else { 2e-3 };
        assert_within(tolerance, &format!("{what}: gradient by {}", tensor.name), got, want);
    }
    // The update is what the CPU's Adam makes of the GPU's averages.
    let step = i32::try_from(gpu.progress().step).unwrap();
    let rate = 1e-3 / (1.0 - 0.9f64.powi(step)) as f32;
    let root = (1.0 - 0.999f64.powi(step)).sqrt() as f32;
    let moments = after.first.iter().zip(&after.second);
    let moved = |(p, (m, v)): (&f32, (&f32, &f32))| p - rate * m / (v.sqrt() / root + 1e-8);
    let want: Vec<f32> = before.parameters.iter().zip(moments).map(moved).collect();
    assert_within(1e-6, &format!("{what}: parameters"), &after.parameters, &want);
}

fn one_step(device: &mut dyn Device) {
    let until = device.progress().batch + 1;
    steps(device, until);
}

/// Until so many batches of the epoch are done.
fn steps(device: &mut dyn Device, until: u64) {
    let digits = digits();
    let order = device.sampler(digits.len()).epoch(device.progress().epoch);
    let stop = AtomicBool::new(false);
    let stretch = Stretch { digits: &digits, order: &order, until, checkpoints: None, stop: &stop };
    device.advance(&stretch, &mut |_| Ok(())).unwrap();
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
    let mut cpu = cpu_trainer(precision);
    assert_eq!(cpu.resume(&at_14).unwrap(), None);
    assert_eq!((cpu.progress.step, cpu.progress.batch), (14, 4));
    let elsewhere = tempfile::tempdir().unwrap();
    run(&mut cpu, 2, elsewhere.path(), None);
    assert_within(1.5e-2, "parameters", &at_20.parameters, &cpu.state.parameters);

    // Back on a GPU: what was saved, to the bit, and then the same as without the detour to disk.
    let mut again = gpu_trainer(precision);
    again.resume(&at_14).unwrap();
    run(&mut again, 2, elsewhere.path(), None);
    assert!(again.state().unwrap() == at_20);
    let of_cpu = cpu.save(elsewhere.path()).unwrap();
    again.resume(&of_cpu).unwrap();
    assert!(again.state().unwrap() == cpu.state);
}

fn behind(precision: Precision) {
    let (behind, waiting) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(&mut gpu_trainer(precision), 2, behind.path(), None);
    let mut gpu = gpu_trainer(precision);
    steps(&mut gpu, 10);
    let at = gpu.progress();
    (at.epoch, at.batch, at.epoch_loss) = (1, 0, 0.0);
    steps(&mut gpu, 4);
    let saved = gpu.save(waiting.path()).unwrap();
    for file in ["model.safetensors", "optimizer.safetensors", "state.json"] {
        let bytes = |directory: &Path| std::fs::read(directory.join(file)).unwrap();
        assert!(bytes(&saved) == bytes(&behind.path().join("step-14")), "{file} differs");
    }
}

/// By the guide's `nn.Sequential`, in 32 bits on the CPU.
fn logits(precision: Precision) {
    let Some(python) = std::env::var_os(crate::PYTHON) else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut gpu = gpu_trainer(precision);
    run(&mut gpu, 8, directory.path(), None);
    let digits = digits();
    let bytes = gpu.logits(&digits).unwrap().iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
    std::fs::write(directory.path().join("logits"), bytes).unwrap();
    std::fs::write(directory.path().join("images"), &digits.images).unwrap();
    let tolerance = match precision {
        Precision::Fp32 => "1e-5",
        Precision::Tf32 => "2e-3",
        Precision::Bf16 => "1.5e-2",
    };
    let script = include_str!("../../../tests/gpu/logits.py");
    let mut command = std::process::Command::new(python);
    command.args(["-c", script]).arg(directory.path()).args(["step-80", tolerance]);
    assert!(command.status().unwrap().success(), "PyTorch makes other logits of it");
}

fn stop(precision: Precision) {
    let directory = tempfile::tempdir().unwrap();
    let mut trainer = gpu_trainer(precision);
    // The device is ahead of the host by steps that are queued, so the step that hears it is not known beforehand.
    let (end, losses) = run(&mut trainer, 100_000, directory.path(), Some(25));
    assert_eq!(end, End::Stopped);
    let step = trainer.progress().step;
    assert!((1..1000).contains(&step), "stopped at {step}");
    assert_eq!(losses.len() as u64, step);
    let saved = directory.path().join(format!("step-{step}"));
    let mut again = gpu_trainer(precision);
    again.resume(&saved).unwrap();
    assert!(again.state().unwrap() == trainer.state().unwrap());
}

//! The reference trainer: a guide's network on MNIST's digits, data-parallel over the job's ranks.

mod args;
mod signal;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser as _;
use convoke_trainer::collective::tcp::Ring;
use convoke_trainer::collective::{CollectiveError, ConnectError};
use convoke_trainer::device::Precision;
use convoke_trainer::device::cuda::{CudaError, Gpu};
use convoke_trainer::mnist::gpu::{GpuTrainer, Ranks, bench};
use convoke_trainer::mnist::run::{Checkpoints, Device, End, Plan, TrainError, say, test, train};
use convoke_trainer::mnist::{Digits, Trainer};
use convoke_trainer::{World, join};

use crate::args::{Args, DeviceChoice};

fn main() -> ExitCode {
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours).with_target(false).init();
    match run(&Args::parse()) {
        Ok(End::Finished) => ExitCode::SUCCESS,
        Ok(End::Stopped) => ExitCode::from(signal::STOPPED),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if lost_a_peer(&error) { 4 } else { 1 })
        }
    }
}

/// The cause lies with another rank.
fn lost_a_peer(error: &anyhow::Error) -> bool {
    let lost = |e: &TrainError| {
        matches!(e, TrainError::Collective(CollectiveError::PeerLost { .. } | CollectiveError::Nccl { .. }))
    };
    let missed = |e: &ConnectError| {
        use ConnectError::{Absent, Network, NoPrevious, Refused};
        matches!(e, Network { .. } | Refused(_) | NoPrevious { .. } | Absent { .. })
    };
    error.downcast_ref().is_some_and(lost) || error.downcast_ref().is_some_and(missed)
}

fn run(args: &Args) -> anyhow::Result<End> {
    let began = Instant::now();
    let world = join()?;
    args.failure.strike(world.rank, world.generation, 0);
    // Before the ring stands: a rank that cannot read its data should say so, not hold up the others.
    let digits = Digits::read(&args.data, "train")?;
    let test_digits = if world.rank == 0 { Some(Digits::read(&args.data, "t10k")?) } else { None };
    let mut metrics = world.metrics().context("opening the file that CONVOKE_METRICS names")?;
    let mut device = match gpu(args, &world)? {
        None => {
            let ring = world.ring(args.peer_timeout()).context("finding the other ranks")?;
            Box::new(cpu_trainer(args, ring)) as Box<dyn Device>
        }
        Some(gpu) => {
            let mut trainer = gpu_trainer(args, &world, gpu)?;
            if let Some(steps) = args.bench {
                let directory = args.checkpoint_dir.as_deref().or(world.checkpoint_dir.as_deref());
                let checkpoints = directory.zip(args.checkpoint_every);
                let checkpoints = checkpoints.map(|(directory, every)| Checkpoints { directory, every });
                bench(&mut trainer, &digits, steps, checkpoints)?;
                return Ok(End::Finished);
            }
            Box::new(trainer)
        }
    };
    resume(args, &world, &mut *device)?;
    if world.world_size > 1 {
        let share = device.sampler(digits.len()).samples_per_rank();
        say(&format!("Rank {} of {}: {share} of {} digits", world.rank, world.world_size, digits.len()));
    }

    let plan = Plan {
        epochs: args.epochs,
        checkpoint_every: args.checkpoint_every,
        checkpoint_dir: args.checkpoint_dir.clone().or(world.checkpoint_dir),
        stop: signal::stop_flag().context("catching signals")?,
        rank: world.rank,
        began,
    };
    let strike = |step| args.failure.strike(world.rank, world.generation, step);
    let end = train(&mut *device, &digits, &plan, &mut metrics, strike);
    if let Err(TrainError::Cuda(CudaError::Stalled(_))) = &end {
        // To free its memory is to wait for the GPU.
        std::mem::forget(device);
        return Ok(end?);
    }
    let end = end?;
    if let (End::Finished, Some(digits)) = (end, test_digits) {
        test(&mut *device, &digits, &mut metrics)?;
    }
    // Whoever asked to stop waits; a lost record at the end is worth less than a quick end.
    let patience = Duration::from_secs(if end == End::Stopped { 2 } else { 30 });
    if !metrics.flush(patience) {
        tracing::warn!(seconds = patience.as_secs(), "the agent did not take all metrics in time");
    }
    Ok(end)
}

/// The GPU to train on, if it is to be one.
fn gpu(args: &Args, world: &World) -> anyhow::Result<Option<Gpu>> {
    if args.device == DeviceChoice::Cpu {
        anyhow::ensure!(args.bench.is_none(), "--bench is of a GPU: add --device cuda");
        return Ok(None);
    }
    match Gpu::open(world.local_rank) {
        Ok(gpu) => {
            if world.rank == 0 {
                say(&format!("On {}", gpu.description));
            }
            Ok(Some(gpu))
        }
        Err(error) if args.device == DeviceChoice::Auto && args.bench.is_none() => {
            tracing::info!(%error, "training on the CPU");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn cpu_trainer(args: &Args, ring: Ring) -> Trainer<f32> {
    Trainer::new(Box::new(ring), args.batch, args.seed).precision(args.precision(Precision::Fp32))
}

fn gpu_trainer(args: &Args, world: &World, gpu: Gpu) -> anyhow::Result<GpuTrainer> {
    let timeout = args.peer_timeout();
    let World { rank, world_size, .. } = *world;
    let ranks = if world_size == 1 {
        Ranks::Alone
    } else {
        let nccl = world.nccl(&gpu.context, timeout).context("finding the other ranks")?;
        if rank == 0 {
            say(&format!("Over {}", nccl.description()));
        }
        Ranks::Nccl { rank, world_size, nccl }
    };
    let precision = args.precision(Precision::Tf32);
    Ok(GpuTrainer::new(gpu, ranks, precision, args.batch, args.seed, timeout)?)
}

fn resume(args: &Args, world: &World, device: &mut dyn Device) -> anyhow::Result<()> {
    let Some(directory) = args.resume_from.as_ref().or(world.resume_from.as_ref()) else { return Ok(()) };
    let note = device.resume(directory)?;
    if world.rank == 0 {
        note.into_iter().for_each(|note| say(&note));
        let at = device.progress();
        say(&format!("Resumed from step {} (epoch {})", at.step, at.epoch + 1));
    }
    Ok(())
}

//! The reference trainer: a guide's network on MNIST's digits, data-parallel over the job's ranks.

mod args;
mod signal;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use convoke_trainer::collective::{CollectiveError, ConnectError};
use convoke_trainer::mnist::run::{End, Plan, TrainError, say, test, train};
use convoke_trainer::mnist::{Digits, Trainer};
use convoke_trainer::{World, join};

use crate::args::Args;

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
    let lost = |e: &TrainError| matches!(e, TrainError::Collective(CollectiveError::PeerLost { .. }));
    let missed = |e: &ConnectError| {
        matches!(e, ConnectError::Network { .. } | ConnectError::Refused(_) | ConnectError::NoPrevious { .. })
    };
    error.downcast_ref().is_some_and(lost) || error.downcast_ref().is_some_and(missed)
}

fn run(args: &Args) -> anyhow::Result<End> {
    let world = join()?;
    args.failure.strike(world.rank, world.generation, 0);
    // Before the ring stands: a rank that cannot read its data should say so, not hold up the others.
    let digits = Digits::read(&args.data, "train")?;
    let test_digits = if world.rank == 0 { Some(Digits::read(&args.data, "t10k")?) } else { None };
    let mut metrics = world.metrics().context("opening the file that CONVOKE_METRICS names")?;
    let ring = world.ring(args.peer_timeout()).context("finding the other ranks")?;
    let mut trainer = Trainer::<f32>::new(Box::new(ring), args.batch, args.seed);
    resume(args, &world, &mut trainer)?;
    if world.world_size > 1 {
        let share = trainer.sampler(digits.len()).samples_per_rank();
        say(&format!("Rank {} of {}: {share} of {} digits", world.rank, world.world_size, digits.len()));
    }

    let plan = Plan {
        epochs: args.epochs,
        checkpoint_every: args.checkpoint_every,
        checkpoint_dir: args.checkpoint_dir.clone().or(world.checkpoint_dir),
        stop: signal::stop_flag().context("catching signals")?,
        rank: world.rank,
    };
    let strike = |step| args.failure.strike(world.rank, world.generation, step);
    let end = train(&mut trainer, &digits, &plan, &mut metrics, strike)?;
    if let (End::Finished, Some(digits)) = (end, test_digits) {
        test(&mut trainer, &digits, &mut metrics)?;
    }
    // Whoever asked to stop waits; a lost record at the end is worth less than a quick end.
    let patience = Duration::from_secs(if end == End::Stopped { 2 } else { 30 });
    if !metrics.flush(patience) {
        tracing::warn!(seconds = patience.as_secs(), "the agent did not take all metrics in time");
    }
    Ok(end)
}

fn resume(args: &Args, world: &World, trainer: &mut Trainer<f32>) -> anyhow::Result<()> {
    let Some(directory) = args.resume_from.as_ref().or(world.resume_from.as_ref()) else { return Ok(()) };
    let note = trainer.resume(directory)?;
    if world.rank == 0 {
        note.into_iter().for_each(|note| say(&note));
        say(&format!("Resumed from step {} (epoch {})", trainer.progress.step, trainer.progress.epoch + 1));
    }
    Ok(())
}

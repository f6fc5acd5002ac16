//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use convoke_trainer::device::Precision;

/// Trains a small convolutional network on MNIST's digits: alone, or as one rank of a Convoke job.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// Directory of the four MNIST files, gzipped or not.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Times to go through the training set.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) epochs: u64,
    /// Samples per rank and step.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) batch: u32,
    /// What to train on; `auto` is the GPU where there is one.
    #[arg(long, value_enum, default_value_t = DeviceChoice::Cpu)]
    pub(crate) device: DeviceChoice,
    /// Of the operands of products; sums and parameters always have 32 bits. By default tf32 on a GPU and
    /// fp32 on a CPU, which otherwise rounds as a GPU would.
    #[arg(long, value_enum)]
    pub(crate) precision: Option<PrecisionChoice>,
    /// Takes so many steps on a GPU with everything off but checkpoints, if asked for, prints samples a second and what each
    /// kernel takes, and trains nothing.
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) bench: Option<u64>,
    /// Initial parameters and order of the samples; a resumed run keeps its checkpoint's.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Steps between checkpoints; once per epoch if not given, and always at the end.
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) checkpoint_every: Option<u64>,
    /// Where checkpoints go, instead of $CONVOKE_CHECKPOINT_DIR; without either none is saved.
    #[arg(long, value_name = "DIR")]
    pub(crate) checkpoint_dir: Option<PathBuf>,
    /// A step-<n> directory to go on from, instead of $CONVOKE_RESUME_FROM.
    #[arg(long, value_name = "DIR")]
    pub(crate) resume_from: Option<PathBuf>,
    /// Seconds without a byte from another rank after which it counts as lost.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) peer_timeout: u64,
    #[command(flatten)]
    pub(crate) failure: Failure,
}

/// Kinds of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DeviceChoice {
    Cpu,
    Cuda,
    Auto,
}

/// How operands are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PrecisionChoice {
    Fp32,
    Tf32,
    Bf16,
}

impl From<PrecisionChoice> for Precision {
    fn from(choice: PrecisionChoice) -> Self {
        match choice {
            PrecisionChoice::Fp32 => Self::Fp32,
            PrecisionChoice::Tf32 => Self::Tf32,
            PrecisionChoice::Bf16 => Self::Bf16,
        }
    }
}

const EXIT_CODES: &str = "Exit codes:
  0    trained to the end
  1    failed: the last line on stderr says why
  2    bad command line
  4    another rank was lost; the last line on stderr names it
  143  stopped by SIGTERM or SIGINT; all ranks stopped after the same step, and rank 0 saved it";

impl Args {
    pub(crate) fn precision(&self, default: Precision) -> Precision {
        self.precision.map_or(default, Into::into)
    }

    pub(crate) fn peer_timeout(&self) -> Duration {
        Duration::from_secs(self.peer_timeout)
    }
}

/// A failure made to order, to see what the rest does about it.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Failure to order")]
pub(crate) struct Failure {
    /// Exits as this step begins.
    #[arg(long, value_name = "STEP")]
    fail_at_step: Option<u64>,
    /// Hangs as this step begins.
    #[arg(long, value_name = "STEP", conflicts_with = "fail_at_step")]
    hang_at_step: Option<u64>,
    /// The rank that fails.
    #[arg(long, value_name = "RANK", default_value_t = 0)]
    fail_rank: u32,
    /// The generation in which it fails; 0 is every one.
    #[arg(long, value_name = "GENERATION", default_value_t = 1)]
    fail_generation: u64,
    /// Its exit code.
    #[arg(long, value_name = "CODE", default_value_t = 3)]
    exit_code: u8,
}

impl Failure {
    /// Fails if this is the place: `step` is about to begin. A trainer without a job counts as
    /// generation 1.
    pub(crate) fn strike(&self, rank: u32, generation: u64, step: u64) {
        let here = rank == self.fail_rank
            && (self.fail_generation == 0 || self.fail_generation == generation.max(1));
        if here && self.fail_at_step == Some(step) {
            eprintln!("rank {rank}: failing at step {step} with exit code {}, as ordered", self.exit_code);
            std::process::exit(i32::from(self.exit_code));
        }
        if here && self.hang_at_step == Some(step) {
            eprintln!("rank {rank}: hanging at step {step}, as ordered");
            loop {
                // Without a deadline: to hang is the order.
                std::thread::park();
            }
        }
    }
}

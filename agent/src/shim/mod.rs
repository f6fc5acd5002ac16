//! The shim: one process per task that owns the task, its exit code and its output, so that the
//! agent may die and come back.

use std::path::PathBuf;
use std::process::ExitCode;

/// Arguments of the hidden `shim` subcommand.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The task's directory.
    #[arg(long)]
    dir: PathBuf,
    /// End, with the task, as soon as nobody holds this file's lock.
    #[arg(long)]
    lifeline: Option<PathBuf>,
}

/// Runs a task to its end. Call it before any thread or runtime is started.
pub fn main(args: &Args) -> ExitCode {
    let Args { dir: _, lifeline: _ } = args;
    ExitCode::FAILURE
}

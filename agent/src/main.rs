//! `convoke-agent`: parse, then run the agent, or the shim of one task.

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "convoke-agent", version, about = "Runs a node's share of the cluster's jobs")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Owns one task; started by the agent only.
    #[command(hide = true)]
    Shim(convoke_agent::shim::Args),
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    match Cli::parse().command {
        Some(Command::Shim(args)) => Ok(convoke_agent::shim::main(&args)),
        None => anyhow::bail!("the agent itself is not there yet"),
    }
}

//! `convoke-agent`: parse, then run the agent, or the shim of one task.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use convoke_agent::app::{self, AgentError};
use convoke_agent::options::AgentOptions;
use convoke_agent::session::Fatal;
use convoke_agent::shim;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

const EXIT_WRONG_PROTOCOL: u8 = 3;
const EXIT_WRONG_CLUSTER: u8 = 4;
/// How long the agent may take to end after SIGTERM; its tasks do not wait for it.
const END_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Parser)]
#[command(
    name = "convoke-agent",
    version,
    about = "Runs a node's share of the cluster's jobs",
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(flatten)]
    agent: AgentOptions,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Owns one task; started by the agent only.
    #[command(hide = true)]
    Shim(shim::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Command::Shim(args)) = cli.command {
        return shim::main(&args);
    }
    let filter = EnvFilter::try_from_env("CONVOKE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    match in_runtime(cli.agent) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("convoke-agent: {error:#}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn in_runtime(options: AgentOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let ended = runtime.block_on(run(options));
    // What is still under way ends with the process, as in a crash, which all of it survives. Taken
    // down one by one, the parts would report each other's end as failures.
    std::mem::forget(runtime);
    ended
}

async fn run(options: AgentOptions) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (trigger, shutdown) = convoke_transport::shutdown();
    let mut agent = Box::pin(app::run(options, shutdown));
    tokio::select! {
        ended = &mut agent => return Ok(ended?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending; tasks go on");
    trigger.begin();
    Ok(tokio::time::timeout(END_TIMEOUT, agent).await.unwrap_or(Ok(()))?)
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<AgentError>() {
        Some(AgentError::Refused(Fatal::WrongProtocol(_))) => EXIT_WRONG_PROTOCOL,
        Some(AgentError::Refused(Fatal::WrongCluster(_))) => EXIT_WRONG_CLUSTER,
        _ => 1,
    }
}

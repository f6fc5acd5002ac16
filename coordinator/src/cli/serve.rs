//! `convoke serve`: the coordinator.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use convoke_coordinator::{BlobOptions, DEFAULT_LISTEN, Retention, ServeOptions, default_data_dir};
use tracing_subscriber::EnvFilter;

use super::failure::{Failure, exit};
use super::signals::Interrupts;

/// Run the coordinator
///
/// It keeps its ledger, checkpoints, shipped files, metrics and logs in one directory and can be killed and
/// started again at any time: jobs go on meanwhile. What it logs goes to stderr; CONVOKE_LOG sets
/// how much (error, warn, info, debug, or a filter such as convoke_coordinator=debug).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  convoke serve
  convoke serve --data-dir ./state --listen 127.0.0.1:0 --address-file ./address")]
pub(crate) struct Serve {
    /// Directory of the ledger, the checkpoints, the shipped files and the telemetry
    #[arg(long, value_name = "DIR", env = "CONVOKE_DATA_DIR", default_value_os_t = default_data_dir())]
    data_dir: PathBuf,

    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = DEFAULT_LISTEN)]
    listen: SocketAddr,

    /// Write the bound address to this file once calls are accepted
    #[arg(long, value_name = "FILE")]
    address_file: Option<PathBuf>,

    /// Listen beyond loopback although nothing is encrypted and nobody has to log in
    #[arg(long)]
    insecure: bool,

    /// How long a node is believed alive without hearing from it
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = humantime::parse_duration)]
    lease: Duration,

    /// How long after its own start the coordinator judges no node
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = humantime::parse_duration)]
    reconnect_window: Duration,

    /// Bytes of log lines kept per job; the oldest go first
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    logs_per_job: ByteSize,

    /// Bytes of metrics kept per job; the oldest go first
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    metrics_per_job: ByteSize,

    /// Bytes of logs and metrics kept in all; the job that was silent longest loses first
    #[arg(long, value_name = "SIZE", default_value = "16GiB")]
    telemetry_total: ByteSize,

    /// Number of events kept in the history
    #[arg(long, value_name = "NUMBER", default_value_t = Retention::default().events)]
    keep_events: u64,

    /// End when the exclusive lock of this file is released
    #[arg(long, value_name = "FILE", hide = true)]
    lifeline: Option<PathBuf>,
}

impl Serve {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let filter = EnvFilter::try_from_env("CONVOKE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
        let colours = std::io::stderr().is_terminal();
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(colours)
            .init();
        let options = ServeOptions {
            data_dir: self.data_dir,
            listen: self.listen,
            address_file: self.address_file,
            insecure: self.insecure,
            lease: self.lease,
            reconnect_window: self.reconnect_window,
            retention: Retention {
                logs_per_job: self.logs_per_job.as_u64(),
                metrics_per_job: self.metrics_per_job.as_u64(),
                telemetry_total: self.telemetry_total.as_u64(),
                events: self.keep_events,
            },
            blobs: BlobOptions::default(),
            lifeline: self.lifeline,
        };
        let mut interrupts = Interrupts::listen()?;
        let shutdown = async move {
            interrupts.next().await;
        };
        convoke_coordinator::serve(options, shutdown)
            .await
            .map_err(|error| Failure::new(exit::FAILED, "SERVE", error.to_string()))
    }
}

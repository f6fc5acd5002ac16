//! What `convoke serve` can be told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where the coordinator listens unless told otherwise; loopback, because there is no TLS.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7670";

/// Options of one coordinator. `Default` is what an operator gets who gives no flag.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Ledger, checkpoints, files that travel and telemetry; made if it is not there. One coordinator at a time.
    pub data_dir: PathBuf,
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The bound address is written here, atomically, once calls are accepted.
    pub address_file: Option<PathBuf>,
    /// Allows another address than loopback although nothing is encrypted or authenticated.
    pub insecure: bool,
    /// How long a node is believed alive without hearing from it.
    pub lease: Duration,
    /// How long after a start no node is judged.
    pub reconnect_window: Duration,
    pub retention: Retention,
    pub blobs: BlobOptions,
    /// The process ends at once when a shared lock of this file is obtained: whoever holds it
    /// exclusively has died.
    pub lifeline: Option<PathBuf>,
}

/// What is kept. The oldest goes first.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Bytes of log segments per job.
    pub logs_per_job: u64,
    /// Bytes of metric segments per job.
    pub metrics_per_job: u64,
    /// Bytes of telemetry of all jobs; above it, the job that was silent longest loses first.
    pub telemetry_total: u64,
    /// Number of events in the cluster's history.
    pub events: u64,
}

/// How files that travel are kept.
#[derive(Debug, Clone)]
pub struct BlobOptions {
    /// How long a blob that no job refers to is kept after it was stored or asked for last.
    pub keep: Duration,
    /// How often such blobs are looked for, besides at the start and when a job is forgotten.
    pub sweep_every: Duration,
    /// Blobs are refused when less than this would be free, in bytes and in percent of the disk,
    /// whichever is smaller: the ledger must be writable when a user ships too much.
    pub reserve_bytes: u64,
    pub reserve_percent: u64,
    /// How long a sender may send nothing.
    pub stall: Duration,
}

impl Default for BlobOptions {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(24 * 3600),
            sweep_every: Duration::from_secs(3600),
            reserve_bytes: 1 << 30,
            reserve_percent: 5,
            stall: Duration::from_secs(30),
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            logs_per_job: 256 * MIB,
            metrics_per_job: 256 * MIB,
            telemetry_total: 16 * 1024 * MIB,
            events: 100_000,
        }
    }
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            data_dir: default_data_dir(),
            listen: DEFAULT_LISTEN.parse().expect("the default address is one"),
            address_file: None,
            insecure: false,
            lease: Duration::from_secs(15),
            reconnect_window: Duration::from_secs(15),
            retention: Retention::default(),
            blobs: BlobOptions::default(),
            lifeline: None,
        }
    }
}

/// `/var/lib/convoke` for root; else `$XDG_STATE_HOME/convoke`, or `~/.local/state/convoke`.
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/convoke");
    }
    let state = std::env::var_os("XDG_STATE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    state.or_else(home).unwrap_or_else(|| PathBuf::from(".")).join("convoke")
}

//! What `convoke serve` can be told.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where the coordinator listens unless told otherwise; loopback, because there is no TLS.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7670";

/// Options of one coordinator. `Default` is what an operator gets who gives no flag.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Ledger, checkpoints and telemetry; made if it is not there. One coordinator at a time.
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

//! What `convoke-agent` can be told, on the command line or by `CONVOKE_*` variables.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use convoke_model::{GpuInjection, NodeId};

use crate::devices::gpus::Subset;

const EXAMPLES: &str = "\
Examples:
  convoke-agent --coordinator http://10.0.0.1:7670
  convoke-agent --node gpu-01 --label zone=a --allow-processes
  convoke-agent --gpus 0,1
  convoke-agent --cpu-slots 2 --allow-processes --advertise-address 127.0.0.1 --state-dir /tmp/agent

Exit codes: 0 asked to stop, 1 error, 2 wrong usage, 3 the coordinator speaks another protocol version, 4 the
coordinator belongs to another cluster. Whatever the reason, running tasks go on; the next agent on
the same state directory takes them over.";

/// Options of one agent.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct AgentOptions {
    /// Coordinator to dial
    #[arg(long, env = "CONVOKE_COORDINATOR", value_name = "URL", default_value = "http://127.0.0.1:7670", value_parser = url)]
    pub coordinator: String,

    /// Name of this node in the cluster [default: the host name]
    #[arg(long, env = "CONVOKE_NODE", value_name = "NAME")]
    pub node: Option<NodeId>,

    /// Where the agent keeps its state; one agent at a time
    #[arg(long, env = "CONVOKE_STATE_DIR", value_name = "DIR", default_value_os_t = default_state_dir())]
    pub state_dir: PathBuf,

    /// A label for placement constraints; may be repeated
    #[arg(long = "label", env = "CONVOKE_LABELS", value_name = "K=V", value_parser = label, value_delimiter = ',')]
    pub labels: Vec<(String, String)>,

    /// Number of CPU slots to offer as devices
    #[arg(long, env = "CONVOKE_CPU_SLOTS", value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1024))]
    pub cpu_slots: u32,

    /// Address that other nodes reach this one at [default: the one that the coordinator is reached from]
    #[arg(long, env = "CONVOKE_ADVERTISE_ADDRESS", value_name = "IP", value_parser = address)]
    pub advertise_address: Option<IpAddr>,

    /// Run jobs without an image as processes of this host, with this agent's rights
    #[arg(long, env = "CONVOKE_ALLOW_PROCESSES")]
    pub allow_processes: bool,

    #[command(flatten)]
    pub gpus: GpuOptions,

    #[command(flatten)]
    pub engine: EngineOptions,

    /// Space for files and images that travelled here, kept for the next job [default: a fifth of the
    /// disk, at most 100 GiB]
    #[arg(long, env = "CONVOKE_FILE_CACHE_SIZE", value_name = "BYTES")]
    pub file_cache_size: Option<ByteSize>,

    /// How much the files may be in all that one replica of a job sends back [default: 100 GiB]
    #[arg(long, env = "CONVOKE_RETURN_LIMIT", value_name = "BYTES")]
    pub return_limit: Option<ByteSize>,

    /// How long a job's last files stay here that cannot be sent back: they are tried all the time, and deleted then
    #[arg(long, env = "CONVOKE_KEEP_FILES", value_name = "DURATION", default_value = "7d", value_parser = humantime::parse_duration)]
    pub keep_files: Duration,

    /// How long an ended replica waits for its last files and checkpoints while the coordinator takes none
    #[arg(long, hide = true, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub files_patience: Duration,

    /// How long the ranks of a gang may take to meet before their job is warned
    #[arg(long, hide = true, value_name = "DURATION", default_value = "2m", value_parser = humantime::parse_duration)]
    pub meeting_patience: Duration,

    /// End at once, tasks included, when nobody holds this file's lock
    #[arg(long, hide = true, value_name = "FILE")]
    pub lifeline: Option<PathBuf>,
}

/// Which GPUs, and how they are found.
#[derive(Debug, Clone, Args)]
pub struct GpuOptions {
    /// GPUs that this agent owns, by index or UUID [default: all of the host]
    #[arg(long, env = "CONVOKE_GPUS", value_name = "IDS")]
    pub gpus: Option<Subset>,

    /// NVIDIA's libnvidia-ml.so.1 [default: where the linker and the driver's packages have it]
    #[arg(long, env = "CONVOKE_NVML_LIBRARY", value_name = "PATH")]
    pub nvml_library: Option<PathBuf>,
}

/// How containers are run.
#[derive(Debug, Clone, Args)]
pub struct EngineOptions {
    /// Socket of the node's Docker Engine [default: /var/run/docker.sock, if an engine answers there]
    #[arg(long, env = "CONVOKE_DOCKER_SOCKET", value_name = "PATH")]
    pub docker_socket: Option<PathBuf>,

    /// Run no containers, even if there is an engine
    #[arg(long, env = "CONVOKE_NO_DOCKER", conflicts_with = "docker_socket")]
    pub no_docker: bool,

    /// How containers get GPUs [default: what is found on this host]
    #[arg(long, env = "CONVOKE_GPU_INJECTION", value_name = "HOW")]
    pub gpu_injection: Option<GpuInjectionWord>,

    /// Remove an image that was fetched for a job once no job has used it for so long
    #[arg(long, env = "CONVOKE_KEEP_IMAGES", value_name = "DURATION", default_value = "14d", value_parser = humantime::parse_duration)]
    pub keep_images: Duration,

    /// Fetch no image, and remove unused ones, with less than this left on the engine's disk
    #[arg(long, env = "CONVOKE_KEEP_FREE", value_name = "SIZE", default_value = "2GiB")]
    pub keep_free: ByteSize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GpuInjectionWord {
    /// A device request to NVIDIA's container toolkit
    Nvidia,
    /// Container Device Interface names; Docker Engine 25 or newer
    Cdi,
    /// Device nodes and the driver's libraries, read-only
    Direct,
}

impl From<GpuInjectionWord> for GpuInjection {
    fn from(word: GpuInjectionWord) -> Self {
        match word {
            GpuInjectionWord::Nvidia => Self::Nvidia,
            GpuInjectionWord::Cdi => Self::Cdi,
            GpuInjectionWord::Direct => Self::Direct,
        }
    }
}

impl AgentOptions {
    /// The labels; the last one of a name counts.
    pub fn label_map(&self) -> BTreeMap<String, String> {
        self.labels.iter().cloned().collect()
    }
}

fn url(text: &str) -> Result<String, convoke_transport::ConnectError> {
    convoke_transport::check_url(text).map(|()| text.to_owned())
}

fn address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "write an IP address".to_owned())?;
    if address.is_unspecified() || address.is_multicast() {
        return Err(
            "no other node can reach this one there; give an address of one of its interfaces".to_owned()
        );
    }
    Ok(address)
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("write a label as key=value".to_owned()),
    }
}

/// `/var/lib/convoke-agent` for root; else `$XDG_STATE_HOME/convoke-agent`, or below `~/.local/state`.
fn default_state_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/convoke-agent");
    }
    let state = std::env::var_os("XDG_STATE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    state.or_else(home).unwrap_or_else(|| PathBuf::from(".")).join("convoke-agent")
}

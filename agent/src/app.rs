//! The agent as a whole: open the state directory, find what is there, then serve the cluster until
//! told to stop.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;

use convoke_model::{NodeId, NodeInfo, RuntimeKind};
use convoke_transport::Shutdown;
use tokio::sync::mpsc;
use tracing::info;

use crate::conditions::Conditions;
use crate::devices::{CpuSlots, Devices, DevicesError};
use crate::home::{Home, HomeError};
use crate::host::Host;
use crate::interfaces;
use crate::ledger::{self, LedgerError};
use crate::link::Link;
use crate::options::AgentOptions;
use crate::reconciler::{Reconciler, RecoverError};
use crate::runtime::process::{OUTPUT_LIMIT, ProcessConfig};
use crate::runtime::{ProcessRuntime, Runtime};
use crate::session::{Fatal, Session};

/// Desired states that wait for the reconciler: it takes each in milliseconds, and a newer one
/// replaces an older one anyway.
const INBOX: usize = 4;

/// Why the agent could not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error("the agent's ledger cannot be used")]
    Ledger(#[from] LedgerError),
    #[error("the host name \"{0}\" cannot be this node's name; give one with --node")]
    NoName(String),
    #[error("this host's addresses cannot be read; give one with --advertise-address")]
    Addresses(#[source] std::io::Error),
    #[error("this host's devices cannot be read")]
    Devices(#[from] DevicesError),
    #[error("the path of this program is not known, so that no task could be started")]
    OwnPath(#[source] std::io::Error),
    #[error(transparent)]
    Recover(#[from] RecoverError),
    #[error(transparent)]
    Refused(#[from] Fatal),
}

/// Runs an agent until `shutdown` begins. Its tasks are left running.
pub async fn run(options: AgentOptions, shutdown: Shutdown) -> Result<(), AgentError> {
    let home = Home::open(&options.state_dir)?;
    let identity = ledger::identity(&home)?;
    let node = node_name(&options)?;
    let addresses =
        interfaces::addresses(coordinator_address(&options.coordinator), options.advertise_address)
            .map_err(AgentError::Addresses)?;
    let devices: Arc<dyn Devices> = Arc::new(CpuSlots::new(options.cpu_slots));
    let runtime: Arc<dyn Runtime> = Arc::new(ProcessRuntime::new(ProcessConfig {
        tasks_dir: home.root().join("tasks"),
        shim: std::env::current_exe().map_err(AgentError::OwnPath)?,
        lifeline: options.lifeline.clone(),
        output_limit: OUTPUT_LIMIT,
    }));
    let host = Arc::new(Host {
        node: node.clone(),
        addresses,
        inventory: devices.inventory()?,
        devices,
        runtime,
        conditions: Conditions::default(),
        warnings: Conditions::default(),
        link: Link::new(options.coordinator.clone(), &node, &identity.instance),
        allow_processes: options.allow_processes,
        reservations: Default::default(),
        ports: Default::default(),
        home,
    });
    info!(%node, state_dir = %host.home.root().display(), "starting");
    let reconciler = Reconciler::recover(host.clone()).await?;
    let (inbox, desired) = mpsc::channel(INBOX);
    let session = Session {
        url: options.coordinator.clone(),
        info: node_info(&host, &options),
        identity,
        agent_file: host.home.agent_file(),
        conditions: host.conditions.clone(),
        observed: reconciler.observed(),
        inbox,
        said: String::new(),
    };
    let reconciling = tokio::spawn(reconciler.run(desired, shutdown.clone()));
    let ended = session.run(shutdown).await;
    reconciling.abort();
    Ok(ended?)
}

fn node_name(options: &AgentOptions) -> Result<NodeId, AgentError> {
    if let Some(node) = &options.node {
        return Ok(node.clone());
    }
    let name = host_name();
    NodeId::new(&name).map_err(|_| AgentError::NoName(name))
}

fn host_name() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}

fn node_info(host: &Host, options: &AgentOptions) -> NodeInfo {
    NodeInfo {
        id: host.node.clone(),
        hostname: host_name(),
        labels: options.label_map(),
        addresses: host.addresses.clone(),
        devices: host.inventory.clone(),
        runtimes: options.allow_processes.then_some(RuntimeKind::Process).into_iter().collect(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        gpu_injection: None,
        engine: None,
    }
}

/// Where the coordinator is, for finding the interface that leads there; `None` if its name cannot
/// be resolved now.
fn coordinator_address(url: &str) -> Option<SocketAddr> {
    let authority = url.strip_prefix("http://")?.trim_end_matches('/');
    authority.to_socket_addrs().ok()?.next()
}

/// Ends this process at once when the lock of `lifeline` can be had: whoever held it has died.
pub fn hold_lifeline(lifeline: PathBuf) {
    std::thread::spawn(move || {
        let locked = std::fs::File::open(&lifeline).and_then(|file| file.lock_shared());
        if let Err(error) = locked {
            tracing::error!(path = %lifeline.display(), "the lifeline cannot be watched: {error}");
        }
        std::process::exit(1);
    });
}

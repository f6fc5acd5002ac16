//! The agent as a whole: open the state directory, find what is there, then serve the cluster until
//! told to stop.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use convoke_model::{DeviceId, GpuInjection, NodeId, NodeInfo, RuntimeKind};
use convoke_transport::Shutdown;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::info;

use crate::conditions::Conditions;
use crate::devices::gpus::{self, Cleaner, SubsetError};
use crate::devices::{AllDevices, CpuSlots, Gpus};
use crate::engine::images::Policy;
use crate::engine::{DEFAULT_SOCKET, Engine};
use crate::files::sight::Sight;
use crate::files::{Files, FilesConfig, Tell};
use crate::home::{HANDOVER, Home, HomeError};
use crate::host::Host;
use crate::interfaces;
use crate::ledger::{self, Identity, IdentityError};
use crate::link::Link;
use crate::options::{AgentOptions, EngineOptions, GpuOptions};
use crate::reconciler::{Reconciler, RecoverError};
use crate::runtime::docker::DockerConfig;
use crate::runtime::process::{OUTPUT_LIMIT, ProcessConfig};
use crate::runtime::{DockerRuntime, ProcessRuntime, Runtimes};
use crate::session::{Fatal, Session};
use crate::tunnel::Tunnels;
use crate::work;

/// Desired states that wait for the reconciler: it takes each in milliseconds, and a newer one
/// replaces an older one anyway.
const INBOX: usize = 4;
/// How long an agent that has to end at once takes to remove its containers.
const LAST_BREATH: Duration = Duration::from_secs(20);

/// Why the agent could not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the host name \"{0}\" cannot be this node's name; give one with --node")]
    NoName(String),
    #[error("this host's addresses cannot be read; give one with --advertise-address")]
    Addresses(#[source] std::io::Error),
    #[error(transparent)]
    Gpus(#[from] SubsetError),
    #[error("the path of this program is not known, so that no task could be started")]
    OwnPath(#[source] std::io::Error),
    #[error("the file cache in the state directory cannot be used")]
    Files(#[source] std::io::Error),
    #[error(transparent)]
    Recover(#[from] RecoverError),
    #[error(transparent)]
    Refused(#[from] Fatal),
}

/// Runs an agent until `shutdown` begins. Its tasks are left running.
pub async fn run(options: AgentOptions, shutdown: Shutdown) -> Result<(), AgentError> {
    let ending = Arc::new(OnceLock::new());
    if let Some(lifeline) = options.lifeline.clone() {
        hold_lifeline(lifeline, ending.clone());
    }
    let home = Arc::new(Home::take_over(&options.state_dir, HANDOVER).await?);
    let node = node_name(&options)?;
    let identity = ledger::identity(&home, &node)?;
    let addresses =
        interfaces::addresses(coordinator_address(&options.coordinator), options.advertise_address)
            .map_err(AgentError::Addresses)?;
    let gpus = open_gpus(&options).await?;
    let cpus = CpuSlots::new(options.cpu_slots);
    let tell = Tell::default();
    let processes = processes(&options, &home, &tell.conditions)?;
    let docker = docker(&options.engine, &home, &identity, &tell.conditions).await;
    if let Some(docker) = docker.clone() {
        let _ = ending.set(docker);
    }
    let link = Arc::new(Link::new(options.coordinator.clone(), &node, &identity.instance));
    let files = files(&options, &node, &home, &link, &tell)?;
    let host = Arc::new(Host {
        node: node.clone(),
        addresses,
        devices: Arc::new(AllDevices(vec![Box::new(gpus.clone()), Box::new(cpus)])),
        cleaner: Cleaner::new(gpus.clone()),
        gpus,
        runtime: Arc::new(Runtimes::new(Arc::new(processes), docker.clone())),
        docker,
        conditions: tell.conditions,
        warnings: tell.warnings,
        progresses: tell.progresses,
        link,
        files,
        allow_processes: options.allow_processes,
        meeting_patience: options.meeting_patience,
        reservations: Default::default(),
        ports: Default::default(),
        home,
    });
    info!(%node, state_dir = %host.home.root().display(), "starting");
    let reconciler = Reconciler::recover(host.clone()).await?;
    let (inbox, desired) = mpsc::channel(INBOX);
    let session = Session {
        url: options.coordinator.clone(),
        info: keep_info(&host, &options),
        identity,
        agent_file: host.home.agent_file(),
        conditions: host.conditions.clone(),
        observed: reconciler.observed(),
        inbox,
        tunnels: Tunnels::new(host.clone()),
        sight: Sight::default(),
        link: host.link.clone(),
        said: String::new(),
    };
    let reconciling = tokio::spawn(reconciler.run(desired, shutdown.clone()));
    let tidying = tokio::spawn(keep_house(host));
    let ended = session.run(shutdown).await;
    reconciling.abort();
    tidying.abort();
    Ok(ended?)
}

/// What goes on beside the replicas, for as long as the agent lives.
async fn keep_house(host: Arc<Host>) {
    tokio::join!(
        host.files.keep_tidy(),
        work::keep_images_tidy(&host),
        keep_conditions(&host),
        gpus::report(host.gpus.clone(), host.link.clone()),
    );
}

fn processes(
    options: &AgentOptions,
    home: &Home,
    conditions: &Conditions,
) -> Result<ProcessRuntime, AgentError> {
    Ok(ProcessRuntime::new(ProcessConfig {
        tasks_dir: home.root().join("tasks"),
        shim: std::env::current_exe().map_err(AgentError::OwnPath)?,
        lifeline: options.lifeline.clone(),
        output_limit: OUTPUT_LIMIT,
        conditions: conditions.clone(),
    }))
}

fn files(
    options: &AgentOptions,
    node: &NodeId,
    home: &Arc<Home>,
    link: &Arc<Link>,
    tell: &Tell,
) -> Result<Arc<Files>, AgentError> {
    let config = FilesConfig {
        overlays: true,
        cache_limit: options.file_cache_size.map(|size| size.as_u64()),
        return_limit: options.return_limit.map(|size| size.as_u64()),
        keep: Some(options.keep_files),
        patience: Some(options.files_patience),
    };
    let files = Files::open(node.clone(), home.clone(), link.clone(), tell.clone(), config);
    Ok(Arc::new(files.map_err(AgentError::Files)?))
}

async fn open_gpus(options: &AgentOptions) -> Result<Gpus, SubsetError> {
    let GpuOptions { gpus: subset, nvml_library: library } = options.gpus.clone();
    Gpus::open(gpus::GpuOptions { library, subset }).await
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

/// The containers' runtime, where an engine is wanted: one that is named, that answers, or that was
/// there in an earlier life of this agent.
async fn docker(
    options: &EngineOptions,
    home: &Home,
    identity: &Identity,
    conditions: &Conditions,
) -> Option<DockerRuntime> {
    if options.no_docker {
        return None;
    }
    let socket = options.docker_socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into());
    let seen_file = home.docker_file();
    if options.docker_socket.is_none()
        && !seen_file.exists()
        && let Err(error) = Engine::connect(&socket).await
    {
        info!("no containers: {error}");
        return None;
    }
    Some(DockerRuntime::new(DockerConfig {
        tasks_dir: home.root().join("tasks"),
        socket,
        seen_file,
        gpu_injection: options.gpu_injection.map(Into::into),
        instance: identity.instance.clone(),
        output_limit: OUTPUT_LIMIT,
        conditions: conditions.clone(),
        images_file: home.images_file(),
        image_policy: Policy { unused_for: options.keep_images, keep_free: options.keep_free.as_u64() },
    }))
}

/// What the node is, now and whenever its engine comes back as another one or its GPUs change.
fn keep_info(host: &Arc<Host>, options: &AgentOptions) -> watch::Receiver<NodeInfo> {
    let (sender, receiver) = watch::channel(node_info(host, options));
    let sender = Arc::new(sender);
    keep_gpus(host.clone(), sender.clone());
    if let Some(mut presence) = host.docker.as_ref().map(DockerRuntime::presence) {
        let host = host.clone();
        tokio::spawn(async move {
            while presence.changed().await.is_ok() {
                let engine = engine_info(&host);
                sender.send_if_modified(|info| {
                    let news = engine.0.is_some() && engine != (info.engine.clone(), info.gpu_injection);
                    if news {
                        (info.engine, info.gpu_injection) = engine;
                    }
                    news
                });
            }
        });
    }
    receiver
}

fn node_info(host: &Host, options: &AgentOptions) -> NodeInfo {
    let processes = options.allow_processes.then_some(RuntimeKind::Process);
    let containers = host.docker.as_ref().map(|_| RuntimeKind::Docker);
    let (engine, gpu_injection) = engine_info(host);
    NodeInfo {
        id: host.node.clone(),
        hostname: host_name(),
        labels: options.label_map(),
        addresses: host.addresses.clone(),
        devices: host.devices.inventory(),
        runtimes: processes.into_iter().chain(containers).collect(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        gpu_injection,
        engine,
        gpu_driver: host.gpus.driver(),
    }
}

fn keep_gpus(host: Arc<Host>, sender: Arc<watch::Sender<NodeInfo>>) {
    let mut state = host.gpus.state();
    tokio::spawn(async move {
        while state.changed().await.is_ok() {
            let (devices, driver) = (host.devices.inventory(), host.gpus.driver());
            sender.send_if_modified(|info| {
                let news = (&info.devices, &info.gpu_driver) != (&devices, &driver);
                if news {
                    (info.devices, info.gpu_driver) = (devices, driver);
                }
                news
            });
        }
    });
}

fn engine_info(host: &Host) -> (Option<String>, Option<GpuInjection>) {
    match host.docker.as_ref().map(DockerRuntime::reached) {
        Some(Ok(reached)) => (Some(reached.info.describe()), reached.info.gpu_injection),
        Some(Err(_)) | None => (None, None),
    }
}

/// Where the coordinator is, for finding the interface that leads there; `None` if its name cannot
/// be resolved now.
fn coordinator_address(url: &str) -> Option<SocketAddr> {
    let authority = url.strip_prefix("http://")?.trim_end_matches('/');
    authority.to_socket_addrs().ok()?.next()
}

/// Ends this process at once, its containers included, when the lock of `lifeline` can be had: whoever
/// held it has died. Needs a Tokio runtime.
fn hold_lifeline(lifeline: PathBuf, docker: Arc<OnceLock<DockerRuntime>>) {
    let runtime = Handle::current();
    std::thread::spawn(move || {
        let locked = std::fs::File::open(&lifeline).and_then(|file| file.lock_shared());
        if let Err(error) = locked {
            tracing::error!(path = %lifeline.display(), "the lifeline cannot be watched: {error}");
        }
        if let Some(docker) = docker.get() {
            // Whatever is left by then stays.
            let _ = runtime.block_on(async { timeout(LAST_BREATH, docker.remove_all()).await });
        }
        std::process::exit(1);
    });
}

/// Of the node's GPUs.
async fn keep_conditions(host: &Arc<Host>) {
    let holding = host.clone();
    let held = move |gpu: &DeviceId| holding.reservations().holder(gpu).is_some();
    gpus::keep_conditions(host.gpus.clone(), host.cleaner.clone(), host.conditions.clone(), held).await;
}

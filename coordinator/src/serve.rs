//! Putting the coordinator together, and taking it apart again.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use convoke_core::{Config, Core};
use convoke_model::{CheckpointRef, ClusterId, JobId, Rank};
use convoke_transport::Shutdown;
use tokio::net::TcpListener;

use crate::api::{Context, Identity, routes};
use crate::data_dir::{DataDir, DataDirError, sync_dir};
use crate::files::{Blobs, Catalogue, Files, sweep};
use crate::gpus::GpuSamples;
use crate::ledger::{Ledger, LedgerError};
use crate::owner::{Outlets, OwnerThread, StartError};
use crate::questions::Questions;
use crate::store::{Store, collect};
use crate::telemetry::Telemetry;
use crate::tunnels::Tunnels;
use crate::{ServeOptions, lifeline};

/// How long the owner and the telemetry writer may take to finish what they were asked.
const LAST_WRITES: Duration = Duration::from_secs(10);

/// Why the coordinator could not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "{0} is not a loopback address, and there is no encryption and no authentication yet: whoever reaches it can run commands on every node. Listen on 127.0.0.1, or say --insecure if the network is yours alone"
    )]
    NotLoopback(SocketAddr),
    #[error("{what} is zero; it must be a positive duration")]
    Zero { what: &'static str },
    #[error(
        "cannot listen on {address}: {source}; choose another --listen address, or port 0 for a free one"
    )]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{0}")]
    DataDir(String),
    #[error("{0}")]
    Ledger(String),
    #[error(
        "the ledger {path} is missing or empty, but {found} was stored under one; restore the ledger from a backup, or start an empty cluster with another --data-dir"
    )]
    LedgerGone { path: PathBuf, found: PathBuf },
    #[error("{what} {path} cannot be used: {source}")]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the server failed: {0}")]
    Server(String),
}

impl From<DataDirError> for ServeError {
    fn from(error: DataDirError) -> Self {
        Self::DataDir(error.to_string())
    }
}

impl From<LedgerError> for ServeError {
    fn from(error: LedgerError) -> Self {
        Self::Ledger(error.to_string())
    }
}

impl From<StartError> for ServeError {
    fn from(error: StartError) -> Self {
        Self::Ledger(error.to_string())
    }
}

/// Runs the coordinator until `shutdown` resolves, then lets open calls end for a few seconds.
pub async fn serve(
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    check(&options)?;
    if let Some(path) = &options.lifeline {
        lifeline::hold(path).map_err(|source| file_error("lifeline", path, source))?;
    }
    let data_dir = DataDir::open(&options.data_dir)?;
    let listen_error = |source| ServeError::Listen { address: options.listen, source };
    let listener = TcpListener::bind(options.listen).await.map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;

    let (trigger, stopping) = convoke_transport::shutdown();
    let parts = start(&options, &data_dir, stopping.clone())?;
    let routes = routes(parts.context.clone()).await.map_err(|e| ServeError::Server(e.to_string()))?;

    announce(&options, address)?;
    let trigger = tokio::spawn(async move {
        shutdown.await;
        tracing::info!("shutting down");
        trigger.begin();
    });
    let served = convoke_transport::serve(listener, routes, stopping).await;
    trigger.abort();
    parts.finish().await;
    served.map_err(|error| ServeError::Server(error.to_string()))
}

fn check(options: &ServeOptions) -> Result<(), ServeError> {
    if options.lease.is_zero() {
        return Err(ServeError::Zero { what: "--lease" });
    }
    if !options.listen.ip().is_loopback() {
        if !options.insecure {
            return Err(ServeError::NotLoopback(options.listen));
        }
        tracing::warn!(
            "INSECURE: listening on {} without encryption or authentication; whoever reaches it can run commands on every node",
            options.listen
        );
    }
    Ok(())
}

/// What runs, for [`Parts::finish`] to end.
struct Parts {
    context: Context,
    owner: JoinHandle<()>,
    telemetry: JoinHandle<()>,
}

fn start(options: &ServeOptions, data_dir: &DataDir, stopping: Shutdown) -> Result<Parts, ServeError> {
    let (ledger, replay) = Ledger::open(&data_dir.ledger(), options.retention.events)?;
    if replay.is_empty() {
        refuse_leftovers(data_dir)?;
    }
    let history = ledger.history();
    let (outlets, garbage) = Outlets::new();
    let config =
        Config { lease: options.lease, reconnect_window: options.reconnect_window, ..Config::default() };
    let new_cluster = uuid::Uuid::new_v4().simple().to_string();
    let new_cluster = ClusterId::new(&new_cluster).expect("hexadecimal digits");
    let prepared = OwnerThread::prepare(config, ledger, replay, outlets.clone(), new_cluster)?;

    let core = prepared.core();
    let identity = identity(core, options, data_dir.root());
    let (jobs, shards) = (known_jobs(core), known_shards(core));
    let checkpoints = data_dir.checkpoints();
    let store = Store::open(&checkpoints, &shards)
        .map_err(|source| file_error("checkpoint store", &checkpoints, source))?;
    let files = open_files(options, data_dir, &jobs)?;
    let (telemetry, telemetry_thread) =
        Telemetry::start(&data_dir.telemetry(), options.retention.clone(), &jobs)
            .map_err(|source| file_error("telemetry", &data_dir.telemetry(), source))?;

    let (owner, owner_thread) = prepared.start()?;
    tokio::spawn(collect(store.clone(), telemetry.clone(), files.clone(), owner.clone(), garbage));
    tokio::spawn(sweep(files.clone(), owner.clone(), stopping.clone()));
    let context = Context {
        owner,
        outlets,
        history,
        store,
        files,
        telemetry,
        gpus: GpuSamples::default(),
        tunnels: Tunnels::default(),
        questions: Questions::default(),
        shutdown: stopping,
        identity,
    };
    Ok(Parts { context, owner: owner_thread, telemetry: telemetry_thread })
}

fn open_files(
    options: &ServeOptions,
    data_dir: &DataDir,
    jobs: &BTreeSet<JobId>,
) -> Result<Files, ServeError> {
    let blobs = Blobs::open(&data_dir.blobs(), &options.blobs)
        .map_err(|source| file_error("blob store", &data_dir.blobs(), source))?;
    let kept = blobs.any().map_err(|source| file_error("blob store", &data_dir.blobs(), source))?;
    let catalogue = Catalogue::open(&data_dir.artifacts(), kept)?;
    catalogue.retain(|job| JobId::new(job).is_ok_and(|job| jobs.contains(&job)))?;
    Ok(Files::new(blobs, catalogue))
}

/// Without its ledger a data directory names no checkpoint, blob or artifact, and the sweeps would
/// delete them all.
fn refuse_leftovers(data_dir: &DataDir) -> Result<(), ServeError> {
    for dir in [data_dir.checkpoints(), data_dir.telemetry(), data_dir.blobs()] {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        let of_job = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| JobId::new(name).is_ok());
        if let Some(entry) = entries.flatten().find(|entry| of_job(&entry.file_name())) {
            return Err(ServeError::LedgerGone { path: data_dir.ledger(), found: entry.path() });
        }
    }
    Ok(())
}

fn identity(core: &Core, options: &ServeOptions, root: &Path) -> Identity {
    let state = core.state();
    Identity {
        cluster: state.cluster.clone().expect("the start that was just committed sets it"),
        epoch: state.epoch,
        lease: options.lease,
        data_dir: root.display().to_string(),
    }
}

fn known_jobs(core: &Core) -> BTreeSet<JobId> {
    core.state().jobs.keys().cloned().collect()
}

fn known_shards(core: &Core) -> BTreeSet<(CheckpointRef, Rank)> {
    let checkpoints = core.state().jobs.values().flat_map(|job| &job.checkpoints);
    checkpoints.flat_map(|c| c.shards.iter().map(|s| (c.reference.clone(), s.rank))).collect()
}

/// Tells people, and programs, where to connect.
fn announce(options: &ServeOptions, address: SocketAddr) -> Result<(), ServeError> {
    if let Some(path) = &options.address_file {
        write_whole(path, &format!("{address}\n"))
            .map_err(|source| file_error("address file", path, source))?;
    }
    // Nobody may be reading; that is no reason to stop.
    let _ = writeln!(std::io::stdout(), "convoke listening on {address}");
    Ok(())
}

/// A reader sees the whole content or no file.
fn write_whole(path: &Path, content: &str) -> std::io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(content.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_dir(dir)
}

fn file_error(what: &'static str, path: &Path, source: std::io::Error) -> ServeError {
    ServeError::File { what, path: path.to_owned(), source }
}

impl Parts {
    /// Ends the owner and the writer once what they were asked before is done.
    async fn finish(self) {
        let Self { context, owner, telemetry } = self;
        let ending = async {
            context.owner.stop().await;
            context.telemetry.stop().await;
            tokio::task::spawn_blocking(move || (owner.join().is_ok(), telemetry.join().is_ok())).await
        };
        match tokio::time::timeout(LAST_WRITES, ending).await {
            Ok(Ok((true, true))) => tracing::info!("stopped"),
            Ok(_) => tracing::error!("a part of the coordinator had crashed"),
            Err(_) => tracing::warn!("the last writes did not end in time; what was acknowledged is on disk"),
        }
    }
}

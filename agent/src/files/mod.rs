//! Files that travel: what a replica's tasks find where their job has mounts, and what comes back.
//!
//! **There.** A mount whose source is the submitter's own directory (or file) comes with a
//! [`TreeRef`](convoke_model::TreeRef): its content at submit, kept by the coordinator as blobs. [`cache`]
//! brings it to this node, each blob once, and lays it out once for each owner ([`owner`]). Read-only
//! mounts show that shared tree to every replica. A writable mount shows a private copy (`private`): an
//! overlay on the shared tree where the agent may mount, else a copy. The copy is fresh for each
//! generation: the submitter's files, and over them (`merge`) whatever the jobs that it waited for (`before`) and
//! its own earlier generations brought home, whichever node they ran on. So a job that is started again finds the
//! `.pt` files that it left, and none that nobody else would see.
//!
//! **Shared.** A mount may come with a marker instead of content: the submitter's directory is on a file system
//! that this node has, too, at the same path. It is mounted if the marker is there ([`sight`]), and nothing of
//! it is brought or sent back.
//!
//! **Here already.** An absolute source is the node's own path and must exist: Docker would make an
//! empty directory, and a training would find out late that its data is missing. A named volume is the
//! engine's. Secrets and configs (`grants`) are files of the submitter's at Compose's places.
//!
//! **Back.** While a replica's tasks run, [`collect`] looks for what they changed in its writable copies,
//! sends what has come to rest, and reports it. Once they have ended it sends all that differs from the
//! start, before the replica may report its end.
//!
//! A replica's share goes *nothing* → *laid out* (`files.json` beside its record says what) → *removed*, or *kept*
//! where the replica goes and not all of it is home: see [`kept`].
//! Laying out begins by removing, so an interrupted one leaves nothing that counts. kill -9 leaves
//! mounts in place: the next agent finds them by their path, and tasks notice nothing. At start whatever
//! belongs to a replica that has no record any more is taken down.
//!
//! **Failures.** What another try, or another node, may mend is refused for now: an unreachable
//! coordinator, a full disk (condition `DiskFull`; what was brought for this tree alone is deleted). What will
//! stay wrong is refused for good, with the way out: a path that is not there, content that the coordinator
//! does not have any more. An agent that is not root can neither give files to a job's `user:` nor mount, and
//! cannot delete what a root container leaves; run it as root where jobs run in containers.

mod before;
pub mod cache;
pub mod collect;
mod grants;
pub mod kept;
mod laid;
mod layout;
mod merge;
mod overlay;
pub(crate) mod owed;
pub mod owner;
mod plan;
mod prior;
mod private;
mod remove;
mod replicas;
pub mod sight;
mod space;
mod turns;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use convoke_model::{DesiredReplica, NodeId, ReplicaKey};
use serde::{Deserialize, Serialize};
use tracing::warn;

use self::cache::{Cache, FetchError, LayError};
use self::laid::Means;
use self::plan::{Plan, checked};
use self::remove::remove_all;
use self::space::is_full;
use self::turns::Turns;
use crate::conditions::Conditions;
use crate::home::Home;
use crate::host::Host;
use crate::link::Link;
use crate::progress::Progresses;
use crate::work::Refusal;

/// How often the cache's size and the disk are looked at. Disks fill in minutes, not in seconds.
const TIDY: Duration = Duration::from_secs(60);

/// A mount whose source is known on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostMount {
    pub source: HostSource,
    /// Path in the container.
    pub target: String,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostSource {
    /// Absolute, on this host.
    Path(PathBuf),
    /// A named volume of the engine's.
    Volume(String),
    /// A new volume for each task.
    AnonymousVolume,
}

/// What may be chosen.
#[derive(Debug, Clone, Copy)]
pub struct FilesConfig {
    /// Overlays where they can be had; else private copies are copies everywhere.
    pub overlays: bool,
    /// Bytes of the cache; `None` is [`cache`]'s default.
    pub cache_limit: Option<u64>,
    /// Bytes that one replica may bring home; `None` is [`collect::DEFAULT_LIMIT`].
    pub return_limit: Option<u64>,
    /// How long what is not home outlives its replica; `None` is [`collect::DEFAULT_KEEP`].
    pub keep: Option<Duration>,
    /// How long an ended replica waits while nothing moves; `None` is [`collect::DEFAULT_PATIENCE`].
    pub patience: Option<Duration>,
}

impl Default for FilesConfig {
    fn default() -> Self {
        Self { overlays: true, cache_limit: None, return_limit: None, keep: None, patience: None }
    }
}

/// Where what people should know is told.
#[derive(Debug, Clone, Default)]
pub struct Tell {
    /// Of the node: placement avoids it.
    pub conditions: Conditions,
    /// Of a replica.
    pub warnings: Conditions,
    pub progresses: Progresses,
}

/// The node's files that travel.
#[derive(Debug)]
pub struct Files {
    node: NodeId,
    home: Arc<Home>,
    link: Arc<Link>,
    conditions: Conditions,
    warnings: Conditions,
    progresses: Progresses,
    cache: Cache,
    means: Means,
    return_limit: u64,
    keep: Duration,
    patience: Duration,
    /// One thing at a time is done to a replica's directories.
    turns: Turns<ReplicaKey>,
}

impl Files {
    pub fn open(
        node: NodeId,
        home: Arc<Home>,
        link: Arc<Link>,
        tell: Tell,
        config: FilesConfig,
    ) -> io::Result<Self> {
        let Tell { conditions, warnings, progresses } = tell;
        let replicas = home.replicas_dir();
        let cache = Cache::open(&home.cache_dir(), &replicas, link.clone(), config.cache_limit)?;
        // Where the copies will be.
        let means = private::means(&replicas, config.overlays);
        let return_limit = config.return_limit.unwrap_or(collect::DEFAULT_LIMIT);
        Ok(Self {
            node,
            home,
            link,
            conditions,
            warnings,
            progresses,
            cache,
            means,
            return_limit,
            keep: config.keep.unwrap_or(collect::DEFAULT_KEEP),
            patience: config.patience.unwrap_or(collect::DEFAULT_PATIENCE),
            turns: Turns::default(),
        })
    }

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Keeps the cache within its bounds, for as long as it is polled.
    pub async fn keep_tidy(&self) {
        let mut interval = tokio::time::interval(TIDY);
        loop {
            interval.tick().await;
            if let Err(error) = self.cache.tidy().await {
                warn!("the file cache cannot be tidied: {error}");
            }
        }
    }

    /// How long an ended replica waits while nothing moves.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    fn replica_dir(&self, key: &ReplicaKey) -> PathBuf {
        self.home.replica_dir(key)
    }
}

/// Refuses early what can never be laid out here: before an image is fetched for it.
pub async fn check(host: &Host, desired: &DesiredReplica) -> Result<(), Refusal> {
    checked(Plan::of(&desired.spec, &host.node)?, &host.node).await.map(drop)
}

/// Makes the sources of a container's mounts. `image_user` is whom it runs as unless its job says otherwise.
pub async fn lay_out(
    host: &Host,
    desired: &DesiredReplica,
    image_user: &str,
) -> Result<Vec<HostMount>, Refusal> {
    host.files.lay_out(desired, image_user).await
}

/// What follows from a failed fetch, said as `message`.
fn judged(error: &FetchError, message: String) -> Refusal {
    match error {
        FetchError::Status(status) => match convoke_proto::reason(status).as_deref() {
            Some("UNKNOWN_BLOB" | "BLOB_DAMAGED") => {
                Refusal::for_good(format!("{message}; submit the job again, which sends it again"))
            }
            _ => Refusal::for_now(message),
        },
        FetchError::Manifest(..) => Refusal::for_good(message),
        FetchError::Connect(_)
        | FetchError::Stalled(_)
        | FetchError::DiskStalled(_)
        | FetchError::Damaged(_)
        | FetchError::Malformed(_)
        | FetchError::Full { .. }
        | FetchError::Io { .. }
        | FetchError::Interrupted(_) => Refusal::for_now(message),
    }
}

/// An error with what caused it.
fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// True if the disk was the reason.
fn disk_was_full(error: &LayError) -> bool {
    matches!(error, LayError::Io { source, .. } if is_full(source))
}

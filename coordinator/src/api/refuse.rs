//! Every status that Convoke makes: the code is chosen here, the reason is stable.

use convoke_core::Denied;
use convoke_model::Digest;
use convoke_proto::{InvalidMessage, PROTOCOL_VERSION, refusal};
use tonic::{Code, Status};

use crate::database::DatabaseError;
use crate::files::{BlobError, CatalogueError, TreeError};
use crate::ledger::LedgerError;
use crate::owner::Refused;
use crate::store::StoreError;
use crate::telemetry::TelemetryError;

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Denied(denied) => of_denied(&denied),
            Refused::Ledger(error) => error.into(),
            Refused::Superseded => refusal(Code::Aborted, "SESSION_REPLACED", refused.to_string()),
            Refused::Closed => shutting_down(),
        }
    }
}

fn of_denied(denied: &Denied) -> Status {
    let code = match denied {
        Denied::NotStarted => Code::Unavailable,
        Denied::InvalidSpec(_) | Denied::BadUniqueId(_) | Denied::AmbiguousJob { .. } => {
            Code::InvalidArgument
        }
        Denied::UnexpectedShard { .. } | Denied::DuplicateDevice { .. } => Code::InvalidArgument,
        Denied::KeyReused { .. }
        | Denied::IdTaken(_)
        | Denied::NameTaken { .. }
        | Denied::NodeTaken(_)
        | Denied::InstanceTaken { .. }
        | Denied::InstanceCopied { .. }
        | Denied::UniqueIdSet(_)
        | Denied::ShardConflict { .. } => Code::AlreadyExists,
        Denied::NeverFits(_) | Denied::WrongCluster { .. } | Denied::StaleGeneration { .. } => {
            Code::FailedPrecondition
        }
        Denied::UnknownJob(_) | Denied::UnknownNode(_) => Code::NotFound,
        Denied::TooManyJobs | Denied::TooManyNodes | Denied::TooManyReplicas(_) | Denied::TooManyGroups => {
            Code::ResourceExhausted
        }
    };
    refusal(code, denied.reason(), denied.to_string())
}

impl From<LedgerError> for Status {
    fn from(error: LedgerError) -> Self {
        tracing::error!("{error}");
        match &error {
            LedgerError::DiskFull { .. } => refusal(Code::ResourceExhausted, "DISK_FULL", error.to_string()),
            LedgerError::Damaged { .. }
            | LedgerError::Newer { .. }
            | LedgerError::InUse { .. }
            | LedgerError::Io { .. } => refusal(Code::Unavailable, "LEDGER_FAILED", error.to_string()),
        }
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        let (code, reason) = match &error {
            StoreError::BadPath { .. } => (Code::InvalidArgument, "BAD_PATH"),
            StoreError::ShortBody { .. } => (Code::InvalidArgument, "SHORT_BODY"),
            StoreError::ExtraBytes => (Code::InvalidArgument, "EXTRA_BYTES"),
            StoreError::HashMismatch { .. } => (Code::InvalidArgument, "HASH_MISMATCH"),
            StoreError::DiskFull => (Code::ResourceExhausted, "DISK_FULL"),
            StoreError::Damaged { .. } => (Code::DataLoss, "CHECKPOINT_DAMAGED"),
            StoreError::Deleted(_) => (Code::NotFound, "CHECKPOINT_DELETED"),
            StoreError::Busy => (Code::Unavailable, "BUSY"),
            StoreError::Io(_) => (Code::Unavailable, "STORE_FAILED"),
        };
        if matches!(error, StoreError::DiskFull | StoreError::Damaged { .. } | StoreError::Io(_)) {
            tracing::error!("{error}");
        }
        refusal(code, reason, error.to_string())
    }
}

impl From<BlobError> for Status {
    fn from(error: BlobError) -> Self {
        let (code, reason) = match &error {
            BlobError::HashMismatch { .. } => (Code::InvalidArgument, "HASH_MISMATCH"),
            BlobError::ShortBody { .. } => (Code::InvalidArgument, "SHORT_BODY"),
            BlobError::ExtraBytes => (Code::InvalidArgument, "EXTRA_BYTES"),
            BlobError::TooLarge { .. } | BlobError::BadOffset { .. } => {
                (Code::InvalidArgument, "INVALID_MESSAGE")
            }
            BlobError::DiskFull => (Code::ResourceExhausted, "DISK_FULL"),
            BlobError::Unknown(_) => (Code::NotFound, "UNKNOWN_BLOB"),
            BlobError::Damaged(_) => (Code::DataLoss, "BLOB_DAMAGED"),
            BlobError::Busy => (Code::Unavailable, "BUSY"),
            BlobError::Io(_) => (Code::Unavailable, "STORE_FAILED"),
        };
        if matches!(error, BlobError::DiskFull | BlobError::Damaged(_) | BlobError::Io(_)) {
            tracing::error!("{error}");
        }
        refusal(code, reason, error.to_string())
    }
}

impl From<TreeError> for Status {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Store(error) => error.into(),
            TreeError::NoManifest(_)
            | TreeError::TooLarge(..)
            | TreeError::NotAManifest(..)
            | TreeError::WrongTotals { .. }
            | TreeError::Missing { .. }
            | TreeError::WrongSize { .. } => {
                let message = format!(
                    "the job's files are not complete: {error}; send what FindMissingBlobs says is missing, then submit again"
                );
                refusal(Code::FailedPrecondition, "MISSING_CONTENT", message)
            }
        }
    }
}

impl From<CatalogueError> for Status {
    fn from(error: CatalogueError) -> Self {
        match &error {
            CatalogueError::TooMany(_) => {
                refusal(Code::ResourceExhausted, "TOO_MANY_ARTIFACTS", error.to_string())
            }
            CatalogueError::Database(DatabaseError::DiskFull { .. }) => {
                tracing::error!("{error}");
                refusal(Code::ResourceExhausted, "DISK_FULL", error.to_string())
            }
            CatalogueError::Database(_) => {
                tracing::error!("{error}");
                refusal(Code::Unavailable, "STORE_FAILED", error.to_string())
            }
        }
    }
}

impl From<TelemetryError> for Status {
    fn from(error: TelemetryError) -> Self {
        match &error {
            TelemetryError::DiskFull { .. } => {
                tracing::error!("{error}");
                refusal(Code::ResourceExhausted, "DISK_FULL", error.to_string())
            }
            TelemetryError::Io { .. } => {
                tracing::error!("{error}");
                refusal(Code::Unavailable, "TELEMETRY_FAILED", error.to_string())
            }
            TelemetryError::Closed => shutting_down(),
        }
    }
}

/// A message that breaks the contract of its fields.
pub(super) fn invalid(error: InvalidMessage) -> Status {
    let path = matches!(&error, InvalidMessage::Invalid { field: "file.path" | "shard.files", .. });
    let reason = if path { "BAD_PATH" } else { "INVALID_MESSAGE" };
    refusal(Code::InvalidArgument, reason, error.to_string())
}

pub(super) fn bad_request(message: impl Into<String>) -> Status {
    refusal(Code::InvalidArgument, "INVALID_MESSAGE", message)
}

pub(super) fn wrong_protocol(theirs: u32) -> Status {
    let message = format!(
        "the agent speaks protocol version {theirs}, this coordinator {PROTOCOL_VERSION}; install the same version of Convoke on both"
    );
    refusal(Code::FailedPrecondition, "WRONG_PROTOCOL", message)
}

pub(super) fn no_session(node: &str) -> Status {
    let message =
        format!("this agent does not hold the session of node {node:?}; open the control stream first");
    refusal(Code::FailedPrecondition, "NO_SESSION", message)
}

pub(super) fn session_closed() -> Status {
    refusal(
        Code::Aborted,
        "SESSION_CLOSED",
        "the node was declared lost, or a newer session of the same agent took over; say hello again",
    )
}

pub(super) fn silent() -> Status {
    refusal(Code::DeadlineExceeded, "SILENT", "no heartbeat came in time; connect again")
}

pub(super) fn stalled(what: &str) -> Status {
    refusal(Code::DeadlineExceeded, "STALLED", format!("{what} stalled for too long; try again"))
}

pub(super) fn shutting_down() -> Status {
    refusal(Code::Unavailable, "SHUTTING_DOWN", "the coordinator is shutting down; connect again")
}

/// A job that was forgotten while it was looked at.
pub(super) fn unknown_job(job: &str) -> Status {
    of_denied(&Denied::UnknownJob(job.to_owned()))
}

pub(super) fn unknown_task(message: String) -> Status {
    refusal(Code::NotFound, "UNKNOWN_TASK", message)
}

pub(super) fn node_unreachable(node: &convoke_model::NodeId, what: &str) -> Status {
    let message = format!("node {node} {what}; see: convoke nodes");
    refusal(Code::Unavailable, "NODE_UNREACHABLE", message)
}

pub(super) fn too_many_tunnels() -> Status {
    refusal(Code::ResourceExhausted, "TOO_MANY_SESSIONS", "too many sessions are being opened; try again")
}

pub(super) fn too_many_questions() -> Status {
    refusal(Code::ResourceExhausted, "TOO_MANY_QUESTIONS", "too many questions wait for the nodes; try again")
}

pub(super) fn unknown_tunnel() -> Status {
    refusal(Code::NotFound, "UNKNOWN_TUNNEL", "nobody waits for this tunnel")
}

pub(super) fn no_checkpoint(message: impl Into<String>) -> Status {
    refusal(Code::NotFound, "UNKNOWN_CHECKPOINT", message)
}

/// An artifact whose bytes the agent has not sent, or not all of them.
pub(super) fn unstored_artifact(path: &str, digest: Digest) -> Status {
    let message = format!("the content of {path:?}, blob {digest}, is not stored here; send it first");
    refusal(Code::FailedPrecondition, "UNKNOWN_BLOB", message)
}

pub(super) fn wrong_size(path: &str, listed: u64, found: u64) -> Status {
    bad_request(format!("{path:?} is reported with {listed} bytes, but its content has {found}"))
}

pub(super) fn no_unique_id_yet() -> Status {
    refusal(Code::DeadlineExceeded, "NO_UNIQUE_ID_YET", "nobody has published this unique id yet; ask again")
}

/// A thread of our own that died: a defect, not the caller's doing.
pub(super) fn crashed(error: &tokio::task::JoinError) -> Status {
    tracing::error!("a task of the coordinator failed: {error}");
    refusal(Code::Internal, "CRASHED", "a task of the coordinator failed; its log says more")
}

pub(super) fn unreadable(what: &str, error: &std::io::Error) -> Status {
    tracing::error!("{what} cannot be read: {error}");
    refusal(Code::Unavailable, "TELEMETRY_FAILED", format!("{what} cannot be read: {error}"))
}

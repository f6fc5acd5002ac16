//! The gRPC services. A handler checks the message, asks the owner, the store or the telemetry, and
//! converts the answer; it knows no rules. Statuses are made in [`refuse`] and nowhere else.

mod agents;
mod artifacts;
mod blobs;
mod checkpoints;
mod cluster;
mod control;
mod convert;
mod events;
mod files;
mod follow;
mod jobs;
mod outgoing;
mod patience;
mod push;
mod refuse;
mod select;
mod shared;
mod transfer;
mod tunnel;
mod unique_id;
mod upload;
mod watch;

use std::time::Duration;

use convoke_model::{ClusterId, Epoch};
use convoke_proto::v1::agent_service_server::AgentServiceServer;
use convoke_proto::v1::checkpoint_service_server::CheckpointServiceServer;
use convoke_proto::v1::cluster_service_server::ClusterServiceServer;
use convoke_proto::v1::file_service_server::FileServiceServer;
use convoke_proto::v1::job_service_server::JobServiceServer;
use convoke_proto::v1::session_service_server::SessionServiceServer;
use convoke_transport::{MAX_MESSAGE_BYTES, Shutdown};
use tonic::Status;
use tonic::service::Routes;

use crate::files::Files;
use crate::gpus::GpuSamples;
use crate::ledger::History;
use crate::owner::{Outlets, Owner};
use crate::questions::Questions;
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::tunnels::Tunnels;

/// What handlers work with; cheap to clone.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) owner: Owner,
    pub(crate) outlets: Outlets,
    pub(crate) history: History,
    pub(crate) store: Store,
    pub(crate) files: Files,
    pub(crate) telemetry: Telemetry,
    pub(crate) gpus: GpuSamples,
    pub(crate) tunnels: Tunnels,
    pub(crate) questions: Questions,
    pub(crate) shutdown: Shutdown,
    pub(crate) identity: Identity,
}

/// What does not change while the coordinator runs.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) cluster: ClusterId,
    pub(crate) epoch: Epoch,
    pub(crate) lease: Duration,
    pub(crate) data_dir: String,
}

impl Identity {
    /// Two may be lost before the lease runs out.
    pub(crate) fn heartbeat(&self) -> Duration {
        self.lease / 3
    }
}

/// All services, with health and reflection.
pub(crate) async fn routes(context: Context) -> Result<Routes, tonic_reflection::server::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<JobServiceServer<Context>>().await;
    health.set_serving::<CheckpointServiceServer<Context>>().await;
    health.set_serving::<FileServiceServer<Context>>().await;
    health.set_serving::<ClusterServiceServer<Context>>().await;
    health.set_serving::<AgentServiceServer<Context>>().await;
    health.set_serving::<SessionServiceServer<Context>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(convoke_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    macro_rules! sized {
        ($service:ident) => {
            $service::new(context.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        };
    }
    Ok(Routes::new(health_service)
        .add_service(reflection().build_v1()?)
        // Older tools, grpcurl among them, ask for this one.
        .add_service(reflection().build_v1alpha()?)
        .add_service(sized!(JobServiceServer))
        .add_service(sized!(CheckpointServiceServer))
        .add_service(sized!(FileServiceServer))
        .add_service(sized!(ClusterServiceServer))
        .add_service(sized!(SessionServiceServer))
        .add_service(sized!(AgentServiceServer)))
}

/// Runs what blocks on the disk beside the runtime's own threads.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, Status>
where
    T: Send + 'static,
    E: Into<Status> + Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|e| refuse::crashed(&e))?.map_err(Into::into)
}

//! `AgentService`: who calls is checked here, what they ask is done in the modules beside.

use convoke_model::{AgentInstance, CheckpointRef, CheckpointState, NodeId};
use convoke_proto::v1;
use convoke_proto::v1::agent_service_server::AgentService;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, async_trait};

use super::outgoing::Streaming;
use super::{Context, control, push, refuse, transfer, unique_id, upload};

impl Context {
    /// The node whose session the caller holds, by its metadata.
    pub(super) fn caller(&self, metadata: &MetadataMap) -> Result<NodeId, Status> {
        let text = |key| metadata.get(key).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (node, instance) = (text("convoke-node"), text("convoke-instance"));
        match (NodeId::new(node), AgentInstance::new(instance)) {
            (Ok(id), Ok(instance)) if self.outlets.sessions.is_held_by(&id, &instance) => Ok(id),
            _ => Err(refuse::no_session(node)),
        }
    }
}

#[async_trait]
impl AgentService for Context {
    type ControlStream = Streaming<v1::ControlResponse>;
    type PushTelemetryStream = Streaming<v1::PushTelemetryResponse>;
    type FetchCheckpointStream = Streaming<v1::FetchCheckpointResponse>;

    async fn control(
        &self,
        request: Request<tonic::Streaming<v1::ControlRequest>>,
    ) -> Result<Response<Self::ControlStream>, Status> {
        control::open(self, request.into_inner()).await
    }

    async fn push_telemetry(
        &self,
        request: Request<tonic::Streaming<v1::PushTelemetryRequest>>,
    ) -> Result<Response<Self::PushTelemetryStream>, Status> {
        let node = self.caller(request.metadata())?;
        Ok(push::receive(self, node, request.into_inner()))
    }

    async fn report_gpus(
        &self,
        request: Request<v1::ReportGpusRequest>,
    ) -> Result<Response<v1::ReportGpusResponse>, Status> {
        let node = self.caller(request.metadata())?;
        self.gpus.take(node, request.into_inner().samples).map_err(refuse::bad_request)?;
        Ok(Response::new(v1::ReportGpusResponse {}))
    }

    async fn publish_unique_id(
        &self,
        request: Request<v1::PublishUniqueIdRequest>,
    ) -> Result<Response<v1::PublishUniqueIdResponse>, Status> {
        self.caller(request.metadata())?;
        unique_id::publish(self, request.into_inner()).await.map(Response::new)
    }

    async fn get_unique_id(
        &self,
        request: Request<v1::GetUniqueIdRequest>,
    ) -> Result<Response<v1::GetUniqueIdResponse>, Status> {
        self.caller(request.metadata())?;
        unique_id::get(self, request.into_inner()).await.map(Response::new)
    }

    async fn upload_checkpoint(
        &self,
        request: Request<tonic::Streaming<v1::UploadCheckpointRequest>>,
    ) -> Result<Response<v1::UploadCheckpointResponse>, Status> {
        self.caller(request.metadata())?;
        upload::receive(self, request.into_inner()).await.map(Response::new)
    }

    async fn fetch_checkpoint(
        &self,
        request: Request<v1::FetchCheckpointRequest>,
    ) -> Result<Response<Self::FetchCheckpointStream>, Status> {
        self.caller(request.metadata())?;
        let wire = request.into_inner().reference;
        let wire = wire.ok_or_else(|| refuse::bad_request("field reference is missing"))?;
        let reference = CheckpointRef::try_from(wire).map_err(refuse::invalid)?;
        let step = reference.step;
        let found = self.owner.read(move |core, _| core.checkpoint(&reference).cloned()).await?;
        match found {
            Some(checkpoint) if checkpoint.state == CheckpointState::Complete => {
                transfer::send(self, checkpoint).await
            }
            _ => Err(refuse::no_checkpoint(format!("there is no complete checkpoint of step {step}"))),
        }
    }
}

//! `ClusterService`.

use convoke_proto::v1::cluster_service_server::ClusterService;
use convoke_proto::{PROTOCOL_VERSION, v1};
use convoke_transport::MAX_MESSAGE_BYTES;
use tonic::{Request, Response, Status, async_trait};

use super::outgoing::Streaming;
use super::{Context, convert, events};

#[async_trait]
impl ClusterService for Context {
    type StreamEventsStream = Streaming<v1::StreamEventsResponse>;

    async fn get_cluster(
        &self,
        _: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::GetClusterResponse>, Status> {
        Ok(Response::new(v1::GetClusterResponse {
            cluster_id: self.identity.cluster.to_string(),
            epoch: self.identity.epoch.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol_version: PROTOCOL_VERSION,
            lease_ms: convoke_model::millis(self.identity.lease),
            max_message_bytes: MAX_MESSAGE_BYTES as u64,
            data_dir: self.identity.data_dir.clone(),
        }))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let nodes = self.owner.read(|core, now| core.nodes(now)).await?;
        let nodes = nodes.into_iter().map(|view| {
            let samples = self.gpus.of(&view.info.id);
            convert::node(view, samples)
        });
        let nodes = nodes.collect();
        Ok(Response::new(v1::ListNodesResponse { nodes }))
    }

    async fn stream_events(
        &self,
        request: Request<v1::StreamEventsRequest>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let request = request.into_inner();
        let job = match request.job.as_str() {
            "" => None,
            query => Some(self.owner.find_job(query).await?),
        };
        Ok(events::stream_events(self, request.from_sequence, request.follow, job))
    }
}

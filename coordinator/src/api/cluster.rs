//! `ClusterService`.

use convoke_proto::v1::cluster_service_server::ClusterService;
use convoke_proto::{PROTOCOL_VERSION, v1};
use convoke_transport::MAX_MESSAGE_BYTES;
use prost::Message as _;
use tonic::{Request, Response, Status, async_trait};

use super::jobs::LIST_BYTES;
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
            (convert::node(view), samples)
        });
        Ok(Response::new(v1::ListNodesResponse { nodes: with_samples(nodes.collect(), LIST_BYTES) }))
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

/// The nodes, with their samples as far as a message of so many bytes has room for them.
fn with_samples(nodes: Vec<(v1::Node, Vec<v1::GpuSample>)>, room: usize) -> Vec<v1::Node> {
    let taken: usize = nodes.iter().map(|(node, _)| node.encoded_len()).sum();
    let mut room = room.saturating_sub(taken);
    let sampled = nodes.into_iter().map(|(node, samples)| {
        let bytes = samples.iter().map(|sample| sample.encoded_len()).sum();
        match room.checked_sub(bytes) {
            None => node,
            Some(left) => {
                room = left;
                v1::Node { gpu_samples: samples, ..node }
            }
        }
    });
    sampled.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_that_a_message_has_no_room_for_are_left_out_and_no_node_is() {
        let sample = |device: &str| v1::GpuSample { device: device.to_owned(), ..Default::default() };
        let node = || v1::Node { since_unix_ms: 1, ..Default::default() };
        let nodes = vec![
            (node(), vec![sample("a")]),
            (node(), vec![sample(&"b".repeat(90))]),
            (node(), vec![sample("c")]),
        ];
        let counts = |room| {
            with_samples(nodes.clone(), room).iter().map(|node| node.gpu_samples.len()).collect::<Vec<_>>()
        };
        assert_eq!((counts(1_000), counts(50), counts(0)), (vec![1, 1, 1], vec![1, 0, 1], vec![0, 0, 0]));
    }
}

//! `FileService`.

use convoke_model::{JobSpec, TreeRef};
use convoke_proto::v1;
use convoke_proto::v1::file_service_server::FileService;
use tokio::sync::OwnedRwLockReadGuard;
use tonic::{Request, Response, Status, async_trait};

use super::outgoing::Streaming;
use super::{Context, artifacts, blobs, blocking, shared};

#[async_trait]
impl FileService for Context {
    type FetchBlobsStream = Streaming<v1::BlobPart>;
    type StreamArtifactsStream = Streaming<v1::StreamArtifactsResponse>;

    async fn find_missing_blobs(
        &self,
        request: Request<v1::FindMissingBlobsRequest>,
    ) -> Result<Response<v1::FindMissingBlobsResponse>, Status> {
        blobs::find_missing(self, request.into_inner()).await.map(Response::new)
    }

    async fn upload_blobs(
        &self,
        request: Request<tonic::Streaming<v1::BlobPart>>,
    ) -> Result<Response<v1::UploadBlobsResponse>, Status> {
        blobs::upload(self, request.into_inner()).await.map(Response::new)
    }

    async fn fetch_blobs(
        &self,
        request: Request<v1::FetchBlobsRequest>,
    ) -> Result<Response<Self::FetchBlobsStream>, Status> {
        blobs::fetch(self, request.into_inner()).await
    }

    async fn stream_artifacts(
        &self,
        request: Request<v1::StreamArtifactsRequest>,
    ) -> Result<Response<Self::StreamArtifactsStream>, Status> {
        let request = request.into_inner();
        let job = self.owner.find_job(&request.job).await?;
        Ok(artifacts::follow(self, job, request.after_sequence, request.follow))
    }

    async fn report_artifacts(
        &self,
        request: Request<v1::ReportArtifactsRequest>,
    ) -> Result<Response<v1::ReportArtifactsResponse>, Status> {
        let node = self.caller(request.metadata())?;
        artifacts::report(self, node, request.into_inner()).await.map(Response::new)
    }

    async fn find_shared_directories(
        &self,
        request: Request<v1::FindSharedDirectoriesRequest>,
    ) -> Result<Response<v1::FindSharedDirectoriesResponse>, Status> {
        shared::find(self, request.into_inner()).await.map(Response::new)
    }
}

impl Context {
    /// Checks that everything is here that the job's replicas would be laid out from, and keeps it so
    /// until the returned hold is dropped.
    pub(super) async fn hold_content(
        &self,
        spec: &JobSpec,
    ) -> Result<Option<OwnedRwLockReadGuard<()>>, Status> {
        let trees: Vec<TreeRef> = spec.trees().cloned().collect();
        if trees.is_empty() {
            return Ok(None);
        }
        let _turn = self.files.check_turn().await?;
        let hold = self.files.referring.clone().read_owned().await;
        let blobs = self.files.blobs.clone();
        blocking(move || trees.iter().try_for_each(|tree| blobs.check_tree(tree))).await?;
        Ok(Some(hold))
    }
}

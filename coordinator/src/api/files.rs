//! `FileService`.

use convoke_proto::v1;
use convoke_proto::v1::file_service_server::FileService;
use tonic::{Request, Response, Status, async_trait};

use super::outgoing::Streaming;
use super::{Context, blobs};

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
        _: Request<v1::StreamArtifactsRequest>,
    ) -> Result<Response<Self::StreamArtifactsStream>, Status> {
        Err(Status::unimplemented("artifacts"))
    }

    async fn report_artifacts(
        &self,
        _: Request<v1::ReportArtifactsRequest>,
    ) -> Result<Response<v1::ReportArtifactsResponse>, Status> {
        Err(Status::unimplemented("artifacts"))
    }
}

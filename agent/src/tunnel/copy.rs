//! Files out of and into a container, as tar streams.

use bollard::Docker;
use bollard::query_parameters::{DownloadFromContainerOptionsBuilder, UploadToContainerOptionsBuilder};
use bytes::Bytes;
use convoke_proto::v1;
use convoke_proto::v1::tunnel_frame::Frame;
use futures::{StreamExt as _, stream};

use super::frames::{Broken, In, Out, refused};

pub(super) async fn copy_from(
    docker: &Docker,
    container: &str,
    path: &str,
    output: Out,
) -> Result<(), Broken> {
    let options = DownloadFromContainerOptionsBuilder::default().path(path).build();
    let mut tar = docker.download_from_container(container, Some(options));
    while let Some(bytes) = tar.next().await {
        output.data(bytes.map_err(refused(path))?, Frame::Data).await?;
    }
    output.send(Frame::End(v1::TunnelEnd {})).await
}

pub(super) async fn copy_to(
    docker: &Docker,
    container: &str,
    path: &str,
    input: In,
    output: Out,
) -> Result<(), Broken> {
    let options = UploadToContainerOptionsBuilder::default().path(path).build();
    docker
        .upload_to_container(container, Some(options), bollard::body_try_stream(tar(input)))
        .await
        .map_err(refused(path))?;
    output.send(Frame::End(v1::TunnelEnd {})).await
}

/// The operator's bytes. Where it goes away before the end, the engine sees a broken request and
/// unpacks no more.
fn tar(input: In) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::unfold(Some(input), |input| async move {
        let mut input = input?;
        loop {
            match input.next().await {
                Ok(Frame::Data(bytes)) => return Some((Ok(bytes), Some(input))),
                Ok(Frame::End(_)) => return None,
                Ok(_) => {}
                Err(broken) => return Some((Err(std::io::Error::other(broken.to_string())), None)),
            }
        }
    })
}

//! What a container's replica needs before its gang is released, besides what every replica does: its
//! image, and where its directories are on the host.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::VolumeCreateRequest;
use convoke_model::DesiredReplica;

use super::image;
use super::paths::{Inside, NamedDir, absolute, covering};
use super::prepare::Refusal;
use crate::engine::EngineError;
use crate::engine::images::Image;
use crate::files::{HostMount, HostSource};
use crate::host::Host;
use crate::runtime::docker::Reached;

/// How long a replica waits for an engine that was not dialled yet: it may be busy with an image.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes sure of the image; `None` for processes of the host.
pub(super) async fn image(host: &Host, desired: &DesiredReplica) -> Result<Option<Image>, Refusal> {
    match &desired.spec.image {
        Some(name) => image::ensure(host, desired, &*reached(host).await?, name).await.map(Some),
        None => Ok(None),
    }
}

/// Finds out where the job's directories are.
pub(super) async fn prepare(
    host: &Host,
    desired: &DesiredReplica,
    image: Image,
    mounts: &[HostMount],
) -> Result<Inside, Refusal> {
    let reached = reached(host).await?;
    external_volumes(host, desired, &reached).await?;
    let checkpoints = match &desired.spec.checkpoint.dir {
        None => None,
        Some(directory) => {
            let working_dir = desired.spec.working_dir.as_deref().unwrap_or(&image.working_dir);
            let inside = absolute(working_dir, directory);
            let (host, below) = on_host(&reached, mounts, &inside).await?.unzip();
            Some(NamedDir { inside, host, below: below.unwrap_or_default() })
        }
    };
    Ok(Inside { image: image.id, checkpoints })
}

/// The engine, or why containers cannot be started now.
pub(super) async fn reached(host: &Host) -> Result<Arc<Reached>, Refusal> {
    let Some(docker) = &host.docker else {
        return Err(Refusal::for_good(format!(
            "node {} runs no containers; start the Docker Engine there, and its agent without --no-docker",
            host.node
        )));
    };
    let reached = docker.reach(PATIENCE).await;
    reached.map_err(|e| Refusal::for_now(format!("node {} cannot start containers: {e}", host.node)))
}

/// Where the mount that has a path of the container's is on the host, if one of the job's does, and the rest of
/// the path.
async fn on_host(
    reached: &Reached,
    mounts: &[HostMount],
    path: &Path,
) -> Result<Option<(PathBuf, PathBuf)>, Refusal> {
    let Some((mount, rest)) = covering(mounts, path) else { return Ok(None) };
    let source = match &mount.source {
        HostSource::Path(source) => source.clone(),
        HostSource::Volume(name) => volume(reached, name).await.map_err(Refusal::for_now)?,
        HostSource::AnonymousVolume => return Ok(None),
    };
    if mount.read_only {
        return Err(Refusal::for_good(format!(
            "x-convoke.checkpoint.dir {} is in the volume {}, which is read-only; make the volume writable, or name \
             another directory",
            path.display(),
            mount.target
        )));
    }
    Ok(Some((source, rest.to_owned())))
}

/// Makes sure that the node has the volumes that are not to be made: a mistyped name, or a node without the
/// data, would be found out late in an empty one.
async fn external_volumes(host: &Host, desired: &DesiredReplica, reached: &Reached) -> Result<(), Refusal> {
    let options = &desired.spec.container;
    let used = |name: &&String| options.volumes.iter().any(|mount| mount.source == **name);
    for name in options.external_volumes.iter().filter(used) {
        match reached.engine.docker().inspect_volume(name).await {
            Ok(_) => {}
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
                return Err(Refusal::for_good(format!(
                    "node {} has no volume {name}, and the job file says external: true, so it is not made: make it \
                     there (docker volume create {name}), or keep to nodes that have it with \
                     deploy.placement.constraints",
                    host.node
                )));
            }
            Err(error) => {
                return Err(Refusal::for_now(reached.engine.error("does not tell of a volume", error)));
            }
        }
    }
    Ok(())
}

/// Where a named volume is on the host; it is made where it is not there yet.
async fn volume(reached: &Reached, name: &str) -> Result<PathBuf, EngineError> {
    let request = VolumeCreateRequest { name: Some(name.to_owned()), ..VolumeCreateRequest::default() };
    let made = reached.engine.docker().create_volume(request).await;
    let made = made.map_err(|error| reached.engine.error("does not make a volume", error))?;
    Ok(made.mountpoint.into())
}

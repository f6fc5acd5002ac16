//! What the engine itself knows of a task's container: enough to go on without the agent's own records.

use std::path::{Path, PathBuf};

use bollard::models::{ContainerInspectResponse, MountPoint};
use convoke_model::{DeviceId, signal_number};

use super::super::procfs::boot;
use super::super::{ContainerRecord, RuntimeError, TaskKey};
use super::{DockerRuntime, labels};
use crate::engine::{Engine, EngineError};
use crate::files::{HostMount, HostSource};

const TERM: i32 = 15;

/// A container, as its engine describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// The engine's id of the image.
    pub image: String,
    pub working_dir: String,
    /// Where its mounts lie on the host.
    pub mounts: Vec<HostMount>,
    pub gpus: Vec<DeviceId>,
}

impl DockerRuntime {
    /// What the engine knows of a known task's container.
    pub async fn describe(&self, task: &TaskKey) -> Result<Described, RuntimeError> {
        let container = self.container(task).ok_or_else(|| RuntimeError::Unknown(task.clone()))?;
        let reached = self.reached()?;
        Ok(described(inspect(&reached.engine, &container).await?))
    }
}

/// The record of a task, as far as the engine knows it.
pub(super) async fn record(
    engine: &Engine,
    task: &TaskKey,
    id: &str,
) -> Result<ContainerRecord, EngineError> {
    let seen = inspect(engine, id).await?;
    let (config, host) = (seen.config.unwrap_or_default(), seen.host_config.unwrap_or_default());
    Ok(ContainerRecord {
        key: task.clone(),
        name: seen.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image: config.image.unwrap_or_default(),
        stop_signal: config.stop_signal.as_deref().and_then(signal_number).unwrap_or(TERM),
        memory_limit: host.memory.and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0),
        boot: boot().unwrap_or_default(),
    })
}

async fn inspect(engine: &Engine, id: &str) -> Result<ContainerInspectResponse, EngineError> {
    let seen = engine.docker().inspect_container(id, None).await;
    seen.map_err(|error| engine.error("does not describe a container", error))
}

fn described(seen: ContainerInspectResponse) -> Described {
    let config = seen.config.unwrap_or_default();
    Described {
        image: seen.image.unwrap_or_default(),
        working_dir: config.working_dir.unwrap_or_default(),
        mounts: seen.mounts.unwrap_or_default().into_iter().filter_map(mount).collect(),
        gpus: labels::gpus(&config.labels.unwrap_or_default()),
    }
}

/// `None` for what lies nowhere on the host.
fn mount(point: MountPoint) -> Option<HostMount> {
    let source = point.source.map(PathBuf::from).filter(|source| source.is_absolute())?;
    let target = point.destination.filter(|target| Path::new(target).is_absolute())?;
    Some(HostMount { source: HostSource::Path(source), target, read_only: point.rw == Some(false) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_signal_is_read_in_each_of_its_forms() {
        assert_eq!(
            ["15", "SIGINT", "QUIT", "37", "SIGNONE"].map(signal_number),
            [Some(15), Some(2), Some(3), Some(37), None]
        );
    }

    #[test]
    fn what_is_only_in_the_container_is_no_mount_of_the_hosts() {
        let point = |source: &str| MountPoint {
            source: Some(source.to_owned()),
            destination: Some("/w".to_owned()),
            rw: Some(false),
            ..MountPoint::default()
        };
        assert_eq!(mount(point("")), None);
        let expected =
            HostMount { source: HostSource::Path("/h".into()), target: "/w".to_owned(), read_only: true };
        assert_eq!(mount(point("/h")), Some(expected));
    }
}

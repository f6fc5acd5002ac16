//! Mounts, tmpfs, devices.

use std::path::{Path, PathBuf};

use bollard::models::{DeviceMapping, HostConfig, Mount, MountType};

use super::Node;
use crate::engine::gpu::{self, GpuRequest};
use crate::files::{HostMount, HostSource};
use crate::runtime::Container;

const INFINIBAND: &str = "/dev/infiniband";

pub(super) fn fill(host: &mut HostConfig, container: &Container, node: &Node, gpus: &GpuRequest) {
    let options = &container.options;
    let mounts: Vec<Mount> = container.mounts.iter().map(mount).chain(gpus.mounts.iter().cloned()).collect();
    host.mounts = (!mounts.is_empty()).then_some(mounts);
    let tmpfs = options.tmpfs.iter().map(|text| {
        let (path, options) = text.split_once(':').unwrap_or((text, ""));
        (path.to_owned(), options.to_owned())
    });
    host.tmpfs = (!options.tmpfs.is_empty()).then(|| tmpfs.collect());
    let mut devices: Vec<DeviceMapping> = options.devices.iter().map(|text| device(text)).collect();
    devices.extend(gpus.devices.iter().cloned());
    let has_it = devices.iter().any(|d| d.path_on_host.as_deref().is_some_and(|p| p.starts_with(INFINIBAND)));
    if wants_fabric(container) && node.infiniband && !has_it {
        devices.push(gpu::device(Path::new(INFINIBAND)));
    }
    host.devices = (!devices.is_empty()).then_some(devices);
}

/// Whether the task may talk to other nodes or GPUs over the fast network.
pub(super) fn wants_fabric(container: &Container) -> bool {
    container.gang || !container.gpus.is_empty()
}

/// Asked for as mounts and not as binds: for a source that is missing after all, the engine then
/// answers with an error instead of making a directory.
fn mount(mount: &HostMount) -> Mount {
    let (typ, source) = match &mount.source {
        // Without the `.` that a relative path leaves in the middle.
        HostSource::Path(path) => {
            (MountType::BIND, Some(path.components().collect::<PathBuf>().display().to_string()))
        }
        HostSource::Volume(name) => (MountType::VOLUME, Some(name.clone())),
        HostSource::AnonymousVolume => (MountType::VOLUME, None),
    };
    Mount {
        typ: Some(typ),
        source,
        target: Some(mount.target.clone()),
        read_only: Some(mount.read_only),
        ..Mount::default()
    }
}

/// `HOST[:CONTAINER][:PERMISSIONS]`.
fn device(text: &str) -> DeviceMapping {
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, permissions) = match parts.as_slice() {
        [host, container, permissions, ..] => (*host, *container, *permissions),
        [host, second] if second.starts_with('/') => (*host, *second, "rwm"),
        [host, permissions] => (*host, *host, *permissions),
        _ => (text, text, "rwm"),
    };
    DeviceMapping {
        path_on_host: Some(host.to_owned()),
        path_in_container: Some(container.to_owned()),
        cgroup_permissions: Some(permissions.to_owned()),
    }
}

//! How a container gets its GPUs: which way this node has, and the request for some GPUs.
//!
//! Ways, in the order in which they are preferred: NVIDIA's toolkit behind a device request, CDI names
//! on an engine that knows them, and the plain device nodes with the driver's libraries.

mod detect;
mod files;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bollard::models::{DeviceMapping, DeviceRequest, Mount, MountType};
use convoke_model::{DeviceId, GpuInjection};

pub use detect::detect;
pub use files::GpuFiles;

/// Where a container finds the driver's libraries: the directory that NVIDIA's images have in their
/// library path already.
pub const LIBRARY_DIR: &str = "/usr/local/nvidia/lib64";
/// In the `PATH` of every image that has one.
const PROGRAM_DIR: &str = "/usr/bin";

/// What a container's body needs for its GPUs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GpuRequest {
    pub device_requests: Vec<DeviceRequest>,
    pub devices: Vec<DeviceMapping>,
    pub mounts: Vec<Mount>,
    pub variables: BTreeMap<String, String>,
    /// [`LIBRARY_DIR`] must come first in the library path.
    pub libraries: bool,
}

/// Why a container cannot get these GPUs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    #[error(
        "this node has GPUs, but no way to give them to a container was found; install NVIDIA's container toolkit, or start the agent with --gpu-injection direct"
    )]
    NoWay,
    #[error(
        "NVIDIA's driver does not list GPU {uuid} (/proc/driver/nvidia/gpus has {known}); is it still on the bus?"
    )]
    NotListed { uuid: DeviceId, known: String },
    #[error("{} is not there; load NVIDIA's driver (nvidia-smi, or nvidia-modprobe -u -c 0, makes it)", .0.display())]
    NoDeviceNode(PathBuf),
    #[error("libcuda.so.1 is in none of {0}; install NVIDIA's driver libraries")]
    NoLibraries(String),
    #[error(
        "no CDI specification in /etc/cdi or /var/run/cdi names nvidia.com/gpu={0}; write one with: nvidia-ctk cdi generate --device-name-strategy=uuid --output=/etc/cdi/nvidia.yaml"
    )]
    NoCdiName(DeviceId),
}

/// The request for `gpus` (UUIDs) as `injection` words it. Pure: `files` is what the node has.
pub fn request(
    files: &GpuFiles,
    injection: Option<GpuInjection>,
    gpus: &[DeviceId],
) -> Result<GpuRequest, GpuError> {
    if gpus.is_empty() {
        return Ok(GpuRequest::default());
    }
    match injection {
        None => Err(GpuError::NoWay),
        Some(GpuInjection::Nvidia) => Ok(nvidia(gpus)),
        Some(GpuInjection::Cdi) => cdi(files, gpus),
        Some(GpuInjection::Direct) => direct(files, gpus),
    }
}

fn nvidia(gpus: &[DeviceId]) -> GpuRequest {
    let uuids: Vec<String> = gpus.iter().map(ToString::to_string).collect();
    let capabilities = ["gpu", "compute", "utility"].map(ToOwned::to_owned).to_vec();
    GpuRequest {
        // The engine sets it too; where NVIDIA's runtime is the default one, it reads the image's
        // `all` if we leave it.
        variables: BTreeMap::from([visible(&uuids.join(","))]),
        device_requests: vec![DeviceRequest {
            driver: Some("nvidia".to_owned()),
            count: None,
            device_ids: Some(uuids),
            capabilities: Some(vec![capabilities]),
            options: None,
        }],
        ..GpuRequest::default()
    }
}

fn cdi(files: &GpuFiles, gpus: &[DeviceId]) -> Result<GpuRequest, GpuError> {
    if let Some(unnamed) = gpus.iter().find(|uuid| !files.has_cdi_name(uuid)) {
        return Err(GpuError::NoCdiName(unnamed.clone()));
    }
    let names = gpus.iter().map(|uuid| format!("nvidia.com/gpu={uuid}")).collect();
    Ok(GpuRequest {
        device_requests: vec![DeviceRequest {
            driver: Some("cdi".to_owned()),
            device_ids: Some(names),
            ..DeviceRequest::default()
        }],
        variables: hidden(),
        ..GpuRequest::default()
    })
}

fn direct(files: &GpuFiles, gpus: &[DeviceId]) -> Result<GpuRequest, GpuError> {
    let mut devices = Vec::new();
    for uuid in gpus {
        let Some(minor) = files.minors.get(uuid.as_str()) else {
            let known: Vec<&str> = files.minors.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(GpuError::NotListed { uuid: uuid.clone(), known });
        };
        devices.push(PathBuf::from(format!("/dev/nvidia{minor}")));
    }
    // Without these two no CUDA program starts.
    devices.extend(["/dev/nvidiactl", "/dev/nvidia-uvm"].map(PathBuf::from));
    if let Some(missing) = devices.iter().find(|device| !files.device_nodes.contains(*device)) {
        return Err(GpuError::NoDeviceNode(missing.clone()));
    }
    let tools = PathBuf::from("/dev/nvidia-uvm-tools");
    devices.extend(files.device_nodes.contains(&tools).then_some(tools));
    if !files.libraries.contains_key("libcuda.so.1") {
        return Err(GpuError::NoLibraries(files::LIBRARY_DIRS.join(", ")));
    }
    let libraries = files.libraries.iter().map(|(name, path)| mount(path, &format!("{LIBRARY_DIR}/{name}")));
    let programs = files.programs.iter().map(|(name, path)| mount(path, &format!("{PROGRAM_DIR}/{name}")));
    Ok(GpuRequest {
        devices: devices.iter().map(|path| device(path)).collect(),
        mounts: libraries.chain(programs).collect(),
        variables: hidden(),
        libraries: true,
        ..GpuRequest::default()
    })
}

/// A device node, or a directory of them, under its own name.
pub(super) fn device(path: &Path) -> DeviceMapping {
    let path = path.display().to_string();
    DeviceMapping {
        path_on_host: Some(path.clone()),
        path_in_container: Some(path),
        cgroup_permissions: Some("rwm".to_owned()),
    }
}

fn mount(source: &Path, target: &str) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target.to_owned()),
        read_only: Some(true),
        ..Mount::default()
    }
}

fn visible(gpus: &str) -> (String, String) {
    ("NVIDIA_VISIBLE_DEVICES".to_owned(), gpus.to_owned())
}

/// NVIDIA's runtime adds no GPUs of its own, whatever the image asks for.
pub fn hidden() -> BTreeMap<String, String> {
    BTreeMap::from([visible("void")])
}

#[cfg(test)]
mod tests;

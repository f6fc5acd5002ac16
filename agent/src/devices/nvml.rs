//! NVIDIA GPUs, as NVML lists them: by UUID, in PCI order.
//!
//! A host without the library has no GPUs; one whose library fails does not start its agent, since
//! nobody could tell what it has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use convoke_model::{Device, DeviceId, DeviceKind};
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;
use tracing::info;

use super::{Devices, DevicesError};

/// Where the library is besides where the linker looks.
const PLACES: [&str; 3] = ["/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"];
const LIBRARY: &str = "libnvidia-ml.so.1";

/// The GPUs of one host.
#[derive(Debug)]
pub struct NvmlGpus(Option<Nvml>);

impl NvmlGpus {
    /// Opens the library, if there is one.
    pub fn open() -> Result<Self, DevicesError> {
        let places = PLACES.iter().map(|place| Path::new(place).join(LIBRARY)).filter(|path| path.exists());
        for name in std::iter::once(PathBuf::from(LIBRARY)).chain(places) {
            match load(&name) {
                Ok(nvml) => return Ok(Self(Some(nvml))),
                // The next place may have it.
                Err(NvmlError::LibloadingError(_)) => {}
                // A driver without a GPU, or an image with the library and no driver.
                Err(NvmlError::DriverNotLoaded | NvmlError::NoPermission) => {
                    info!("no GPUs: the driver is not loaded");
                    return Ok(Self(None));
                }
                Err(error) => return Err(failed(&error)),
            }
        }
        Ok(Self(None))
    }
}

fn load(name: &Path) -> Result<Nvml, NvmlError> {
    Nvml::builder().lib_path(name.as_os_str()).init()
}

fn failed(error: &NvmlError) -> DevicesError {
    DevicesError(format!(
        "NVML does not list this host's GPUs: {error}; does `nvidia-smi -L` work? A driver that was updated needs \
         its module loaded anew, or the host restarted"
    ))
}

impl Devices for NvmlGpus {
    fn inventory(&self) -> Result<Vec<Device>, DevicesError> {
        let Some(nvml) = &self.0 else { return Ok(Vec::new()) };
        let count = nvml.device_count().map_err(|e| failed(&e))?;
        (0..count).map(|index| describe(nvml, index).map_err(|e| failed(&e))).collect()
    }

    /// CUDA's numbering then follows the placement's, whatever the host's is. What else of the host a
    /// container sees is its injection's affair.
    fn visibility(&self, devices: &[DeviceId]) -> BTreeMap<String, String> {
        let uuids: Vec<&str> =
            devices.iter().map(DeviceId::as_str).filter(|id| id.starts_with("GPU-")).collect();
        match uuids.as_slice() {
            [] => BTreeMap::new(),
            uuids => BTreeMap::from([("CUDA_VISIBLE_DEVICES".to_owned(), uuids.join(","))]),
        }
    }
}

fn describe(nvml: &Nvml, index: u32) -> Result<Device, NvmlError> {
    let device = nvml.device_by_index(index)?;
    let uuid = device.uuid()?;
    Ok(Device {
        id: DeviceId::new(&uuid).map_err(|_| NvmlError::Unknown)?,
        index,
        kind: DeviceKind::Gpu,
        model: device.name()?,
        memory: device.memory_info()?.total,
    })
}

//! Finding and opening libnvidia-ml.

use std::ffi::OsStr;
use std::path::Path;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::GpuOptions;

/// Where the library is besides where the linker looks.
const PLACES: [&str; 3] = ["/usr/local/nvidia/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"];
const LIBRARY: &str = "libnvidia-ml.so.1";
/// There once a driver has found a GPU.
const CONTROL: &str = "/dev/nvidiactl";

/// Why there is no NVML.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoNvml {
    /// And nothing says that there should be.
    Absent,
    Down(String),
}

/// Opens the library that was named, or the first that is found.
pub(super) fn open(options: &GpuOptions) -> Result<Nvml, NoNvml> {
    let expected = options.library.is_some() || options.subset.is_some() || Path::new(CONTROL).exists();
    let error = match &options.library {
        Some(path) => match load(path.as_os_str()) {
            Ok(nvml) => return Ok(nvml),
            Err(error) => error,
        },
        None => match find() {
            Ok(nvml) => return Ok(nvml),
            Err(error) => error,
        },
    };
    match error {
        // A host without the driver, or an image with the library only.
        NvmlError::LibloadingError(_) | NvmlError::DriverNotLoaded | NvmlError::NoPermission if !expected => {
            Err(NoNvml::Absent)
        }
        error => Err(NoNvml::Down(explain(&error))),
    }
}

fn find() -> Result<Nvml, NvmlError> {
    let first = match load(OsStr::new(LIBRARY)) {
        Err(NvmlError::LibloadingError(error)) => NvmlError::LibloadingError(error),
        other => return other,
    };
    for place in PLACES.iter().map(|place| Path::new(place).join(LIBRARY)).filter(|path| path.exists()) {
        match load(place.as_os_str()) {
            Err(NvmlError::LibloadingError(_)) => {}
            other => return other,
        }
    }
    Err(first)
}

fn load(path: &OsStr) -> Result<Nvml, NvmlError> {
    Nvml::builder().lib_path(path).init()
}

/// The error, and what to do about it.
pub(super) fn explain(error: &NvmlError) -> String {
    let advice = match error {
        NvmlError::LibloadingError(_) => {
            "install the NVIDIA driver's libraries, or name libnvidia-ml.so.1 with --nvml-library"
        }
        NvmlError::DriverNotLoaded => "load the NVIDIA kernel module (`modprobe nvidia`)",
        NvmlError::LibRmVersionMismatch => {
            "the driver was updated: load its kernel module anew, or restart the host"
        }
        NvmlError::NoPermission => "the agent needs access to /dev/nvidiactl and /dev/nvidia*",
        _ => "`nvidia-smi` and the kernel's log (`dmesg | grep -i nvrm`) tell more",
    };
    format!("NVML does not answer: {error}; {advice}. It is tried again every few seconds")
}

//! Which way this node gives GPUs to containers.

use std::path::{Path, PathBuf};

use convoke_model::GpuInjection;

use super::files::{GpuFiles, below};
use crate::engine::{ApiVersion, EngineInfo};

/// Docker Engine 25.0, the first that knows CDI names.
const CDI_API: ApiVersion = ApiVersion { major: 1, minor: 44 };
const HOOK: &str = "nvidia-container-runtime-hook";
/// Where an engine started by systemd finds programs.
const PROGRAM_DIRS: [&str; 5] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/bin"];

/// The way, if the node below `root` has GPUs and any way.
pub fn detect(root: &Path, info: &EngineInfo) -> Option<GpuInjection> {
    let files = GpuFiles::read(root, &info.cdi_spec_dirs);
    if !files.has_gpus() {
        return None;
    }
    let hook = PROGRAM_DIRS.iter().any(|dir| below(root, &Path::new(dir).join(HOOK)).exists());
    if hook || info.runtimes.contains("nvidia") {
        return Some(GpuInjection::Nvidia);
    }
    // An engine that has CDI switched off (25 to 28.2 have, unless told otherwise) names no directories.
    let cdi = info.api_version >= CDI_API && !info.cdi_spec_dirs.is_empty();
    if cdi && files.all_have_cdi_names() {
        return Some(GpuInjection::Cdi);
    }
    files.libraries.contains_key("libcuda.so.1").then_some(GpuInjection::Direct)
}

/// Where CDI specifications lie if the engine does not say.
pub(super) fn cdi_dirs(of_engine: &[PathBuf]) -> Vec<PathBuf> {
    if of_engine.is_empty() { vec!["/etc/cdi".into(), "/var/run/cdi".into()] } else { of_engine.to_vec() }
}

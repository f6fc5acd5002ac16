//! What a node's file system says of its GPUs: NVIDIA's part of `/proc` and `/dev`, the driver's
//! libraries, CDI specifications.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use convoke_model::DeviceId;

use super::detect::cdi_dirs;

/// Where distributions and GPU clouds put the driver's libraries.
pub(super) const LIBRARY_DIRS: [&str; 8] = [
    "/usr/local/nvidia/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib64",
    "/usr/lib64/nvidia",
    "/usr/lib/wsl/lib",
    "/usr/lib",
];
const PROGRAM_DIRS: [&str; 4] = ["/usr/bin", "/usr/local/nvidia/bin", "/usr/local/bin", "/opt/bin"];

/// The libraries that NVIDIA's toolkit mounts for the capabilities `compute` and `utility`; some are
/// opened by their full version, so every name that a directory has is taken.
const LIBRARIES: [&str; 16] = [
    "libcuda.so",
    "libcudadebugger.so",
    "libnvidia-ml.so",
    "libnvidia-cfg.so",
    "libnvidia-nscq.so",
    "libnvidia-ptxjitcompiler.so",
    "libnvidia-nvvm.so",
    "libnvidia-nvvm70.so",
    "libnvidia-gpucomp.so",
    "libnvidia-allocator.so",
    "libnvidia-opencl.so",
    "libnvidia-pkcs11.so",
    "libnvidia-pkcs11-openssl3.so",
    "libnvidia-sandboxutils.so",
    "libnvidia-fatbinaryloader.so",
    "libnvidia-compiler.so",
];
const PROGRAMS: [&str; 2] = ["nvidia-smi", "nvidia-debugdump"];

/// Paths are as the host has them, whatever root they were read below.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GpuFiles {
    /// Number in `/dev/nvidia<n>`, by UUID.
    pub minors: BTreeMap<String, u32>,
    /// NVIDIA's nodes in `/dev`.
    pub device_nodes: BTreeSet<PathBuf>,
    /// File by the name that programs open.
    pub libraries: BTreeMap<String, PathBuf>,
    pub programs: BTreeMap<String, PathBuf>,
    /// All CDI specifications that are about NVIDIA's GPUs, as text: they are JSON or YAML.
    cdi: String,
}

impl GpuFiles {
    /// Reads what is below `root`; `cdi` is where the engine looks for specifications. What is not
    /// there is left out.
    pub fn read(root: &Path, cdi: &[PathBuf]) -> Self {
        let mut files = Self {
            minors: minors(root),
            device_nodes: names_in(&below(root, Path::new("/dev")), |name| name.starts_with("nvidia"))
                .map(|name| Path::new("/dev").join(name))
                .collect(),
            ..Self::default()
        };
        for stem in LIBRARIES {
            files.libraries.extend(first_dir_with(root, &LIBRARY_DIRS, |name| is_version_of(name, stem)));
        }
        for program in PROGRAMS {
            files.programs.extend(first_dir_with(root, &PROGRAM_DIRS, |name| name == program));
        }
        for dir in cdi_dirs(cdi) {
            let dir = below(root, &dir);
            let specs = names_in(&dir, |name| [".json", ".yaml", ".yml"].iter().any(|e| name.ends_with(e)));
            let texts = specs.filter_map(|name| fs::read_to_string(dir.join(name)).ok());
            files.cdi.extend(texts.filter(|text| text.contains("nvidia.com/gpu")));
        }
        files
    }

    pub fn has_gpus(&self) -> bool {
        !self.minors.is_empty()
    }

    pub(super) fn has_cdi_name(&self, uuid: &DeviceId) -> bool {
        self.cdi.contains(uuid.as_str())
    }

    pub(super) fn all_have_cdi_names(&self) -> bool {
        self.minors.keys().all(|uuid| self.cdi.contains(uuid.as_str()))
    }
}

/// `path` of the host below another root.
pub(super) fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// From `/proc/driver/nvidia/gpus/*/information`.
fn minors(root: &Path) -> BTreeMap<String, u32> {
    let dir = below(root, Path::new("/proc/driver/nvidia/gpus"));
    let texts =
        names_in(&dir, |_| true).filter_map(|gpu| fs::read_to_string(dir.join(gpu).join("information")).ok());
    texts
        .filter_map(|text| {
            let value = |key: &str| {
                let (_, value) =
                    text.lines().filter_map(|line| line.split_once(':')).find(|(k, _)| k.trim() == key)?;
                Some(value.trim().to_owned())
            };
            Some((value("GPU UUID")?, value("Device Minor")?.parse().ok()?))
        })
        .collect()
}

/// True for `libcuda.so`, `libcuda.so.1` and `libcuda.so.580.159.04` if the stem is `libcuda.so`.
fn is_version_of(name: &str, stem: &str) -> bool {
    name.strip_prefix(stem).is_some_and(|rest| {
        rest.is_empty()
            || (rest.starts_with('.') && rest[1..].chars().all(|c| c.is_ascii_digit() || c == '.'))
    })
}

/// The files of the first directory that has any so named, links followed.
fn first_dir_with(root: &Path, dirs: &[&str], wanted: impl Fn(&str) -> bool) -> BTreeMap<String, PathBuf> {
    let real_root = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    for dir in dirs {
        let dir = below(root, Path::new(dir));
        let found: BTreeMap<String, PathBuf> = names_in(&dir, &wanted)
            .filter_map(|name| {
                let real = fs::canonicalize(dir.join(&name)).ok().filter(|real| real.is_file())?;
                Some((name, Path::new("/").join(real.strip_prefix(&real_root).ok()?)))
            })
            .collect();
        if !found.is_empty() {
            return found;
        }
    }
    BTreeMap::new()
}

fn names_in(dir: &Path, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| wanted(name))
        .collect();
    names.sort();
    names.into_iter()
}

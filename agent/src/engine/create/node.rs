//! What a node has that its containers' requests depend on.

use std::path::Path;

use crate::engine::EngineInfo;
use crate::engine::gpu::GpuFiles;

/// Read once, when the engine is found.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Bytes of RAM.
    pub memory: u64,
    pub gpus: GpuFiles,
    /// `/dev/infiniband` is there.
    pub infiniband: bool,
    /// The engine runs every container with NVIDIA's runtime, which then gives all GPUs to an image
    /// that asks for them.
    pub nvidia_by_default: bool,
}

impl Node {
    /// Reads what is below `root`, `/` but in tests.
    pub fn read(root: &Path, info: &EngineInfo) -> Self {
        Self {
            memory: info.memory,
            gpus: GpuFiles::read(root, &info.cdi_spec_dirs),
            infiniband: root.join("dev/infiniband").is_dir(),
            nvidia_by_default: info.default_runtime == "nvidia",
        }
    }
}

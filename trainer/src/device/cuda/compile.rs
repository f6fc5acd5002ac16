//! The kernels' sources, and their compilation.

use cudarc::nvrtc::{CompileError, CompileOptions, Ptx, compile_ptx_with_opts};

use super::CudaError;
use crate::device::Precision;

const SOURCES: [(&str, &str); 7] = [
    ("shapes.cuh", include_str!("kernels/shapes.cuh")),
    ("ptx.cuh", include_str!("kernels/ptx.cuh")),
    ("tile.cuh", include_str!("kernels/tile.cuh")),
    ("conv_forward.cu", include_str!("kernels/conv_forward.cu")),
    ("dense.cu", include_str!("kernels/dense.cu")),
    ("conv_backward.cu", include_str!("kernels/conv_backward.cu")),
    ("adam.cu", include_str!("kernels/adam.cu")),
];

/// Compiles all kernels for GPUs of compute capability `major.minor`. NVRTC must be open
/// ([`super::library::open`]); no GPU is needed.
pub fn ptx(precision: Precision, (major, minor): (i32, i32)) -> Result<Ptx, CudaError> {
    let files = SOURCES.map(|(name, text)| format!("#line 1 \"{name}\"\n{text}"));
    let options = vec![
        format!("--gpu-architecture=compute_{major}{minor}"),
        format!("-DPRECISION={}", precision as u32),
        "-default-device".to_owned(),
        "--std=c++17".to_owned(),
    ];
    let options = CompileOptions { options, ..CompileOptions::default() };
    compile_ptx_with_opts(files.concat(), options).map_err(|e| {
        CudaError::Compile(match e {
            CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
            other => format!("{other:?}"),
        })
    })
}

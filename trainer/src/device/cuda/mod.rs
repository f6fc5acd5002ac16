//! Kernels on a GPU of NVIDIA's, compiled when the trainer starts.
//!
//! **Libraries.** Nothing of CUDA is needed to build. At run time the driver, NVRTC and NCCL are found
//! by soname ([`library`]) and opened before anything else asks for them.
//!
//! **Kernels** (`kernels/`) are CUDA C++, compiled by NVRTC for the GPU at hand and one
//! [`Precision`](super::Precision). They are few and fat: at 64 samples a step is bound by latency, not by arithmetic,
//! so everything that can stay in a multiprocessor does, and pooling, bias and ReLU are part of the
//! convolutions. A step is
//!
//! | kernel | does | of the CPU's kernels |
//! |---|---|---|
//! | `conv_forward` | image → both convolutions, each with bias, ReLU and pooling | `conv_forward`, `relu_pool_forward` |
//! | `dense_forward` | first dense layer, in parts of its inputs | `linear_forward` |
//! | `head` | the parts added up, ReLU, second layer, loss, and back to the hidden layer | `linear_forward`, `relu`, `cross_entropy`, `linear_backward`, `relu_backward` |
//! | `dense_backward` | gradients of the dense layers and of their input | `linear_backward` |
//! | `conv_backward` | gradients of the convolutions, in parts of the samples | `relu_pool_backward`, `conv_backward` |
//! | `conv_gradient` | those parts added up, where ranks are to be added as well | |
//! | `adam` | the same, and the update | `adam` |
//!
//! No kernel adds floats atomically, and how sums are cut into parts depends on the batch size alone:
//! the same seed, world and precision give the same bits.

mod buffer;
mod compile;
mod gpu;
pub mod library;

pub use buffer::{Buffer, HostWords};
pub use compile::ptx;
pub use gpu::{Gpu, Graph, Kernel, Kernels, Launch, Stopwatch};

use cudarc::driver::DriverError;

/// Why the GPU cannot be used, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    #[error(transparent)]
    Library(#[from] library::LibraryError),
    #[error("no GPU to be used here: {0}; ask for one in the job file, or train with --device cpu")]
    NoGpu(String),
    #[error(
        "local rank {local_rank} has no GPU: {count} are visible (one task for each GPU: `ranks: per-gpu`)"
    )]
    NoSuchGpu { local_rank: u32, count: u32 },
    #[error("the kernels need compute capability 8.0, this GPU has {0}.{1}; train with --device cpu")]
    TooOld(i32, i32),
    #[error("the kernels do not compile: {0}")]
    Compile(String),
    #[error("{what} failed")]
    Driver { what: &'static str, source: DriverError },
    #[error("the GPU finished no step within {} s: see the driver's messages (dmesg)", .0.as_secs_f64())]
    Stalled(std::time::Duration),
}

/// Names what was tried.
pub(crate) trait Doing<T> {
    fn doing(self, what: &'static str) -> Result<T, CudaError>;
}

impl<T> Doing<T> for Result<T, DriverError> {
    fn doing(self, what: &'static str) -> Result<T, CudaError> {
        self.map_err(|source| CudaError::Driver { what, source })
    }
}

//! Kernels on the CPU: one thread, no allocation, always the same bits for the same input.

mod adam;
mod conv;
mod gemm;
mod linear;
mod loss;
mod pool;

pub use adam::{Adam, adam};
pub use conv::{Conv, conv_backward, conv_forward};
pub use gemm::{Matrix, gemm};
pub use linear::{linear_backward, linear_forward, relu, relu_backward};
pub use loss::{argmax, cross_entropy};
pub use pool::{relu_pool_backward, relu_pool_forward};

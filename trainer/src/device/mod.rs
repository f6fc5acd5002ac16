//! The arithmetic of a model, one module per kind of device. A kernel is a function over flat
//! buffers; a CUDA kernel of the same name is to give the same values as its CPU twin.

pub mod cpu;
pub mod cuda;
mod precision;

pub use precision::Precision;

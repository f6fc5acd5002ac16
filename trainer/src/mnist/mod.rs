//! The reference trainer: a small convolutional network on MNIST's digits, data-parallel.

pub mod gpu;
pub mod idx;
pub mod model;
pub mod network;
pub mod progress;
pub mod run;
pub mod state;
pub mod trainer;

pub use idx::Digits;
pub use trainer::Trainer;

//! The reference trainer: a small convolutional network on MNIST's digits, data-parallel.

pub mod idx;
pub mod model;
pub mod network;

//! What a Rust trainer builds on: join the job, reduce gradients, report metrics, save and resume
//! checkpoints, shard the data. [`mnist`] is the reference trainer built on it.
//!
//! Everything here blocks: a trainer's loop is one thread, and no async runtime shows through.

pub mod agent;
pub mod checkpoint;
pub mod collective;
pub mod device;
pub mod metrics;
pub mod mnist;
pub mod real;
pub mod sampler;
pub mod world;

pub use real::Real;
pub use sampler::Sampler;
pub use world::{World, join};

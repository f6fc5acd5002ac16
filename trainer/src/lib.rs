//! What a Rust trainer builds on: join the job, reduce gradients, report metrics, save and resume
//! checkpoints, shard the data. [`mnist`] is the reference trainer built on it.
//!
//! Everything here blocks: a trainer's loop is one thread, and no async runtime shows through.
//!
//! ```no_run
//! use convoke_trainer::collective::Collective as _;
//!
//! let world = convoke_trainer::join()?;
//! let mut ring = world.ring(std::time::Duration::from_secs(60))?;
//! let mut metrics = world.metrics()?;
//! let mut gradient = vec![0.0f32; 1000];
//! for step in 1..=100 {
//!     // … compute the gradient of this rank's batch …
//!     ring.all_reduce_sum(&mut gradient)?;
//!     metrics.report(step, &[("loss", 0.5)])?;
//! }
//! # Ok::<_, Box<dyn std::error::Error>>(())
//! ```

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

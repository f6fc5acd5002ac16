//! Checkpoints on their way to and from the coordinator.
//!
//! A task leaves `step-<n>/` in its checkpoint directory by a rename; `watch` finds it, `shard`
//! hashes it, `upload` sends it. [`fetch`] brings a complete one back to start from.

mod fetch;
mod shard;
mod upload;
mod watch;

pub use fetch::{collect, fetch};
pub use watch::{Outcome, Watch, Watcher};

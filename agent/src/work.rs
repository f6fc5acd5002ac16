//! What workers do to one replica: each verb is one future, bounded, with a result for the router.

mod prepare;
mod remove;
mod start;
mod stop;

pub use prepare::{Prepared, Refusal, prepare};
pub use remove::{about, remove};
pub use start::{Start, checkpoint_dir, start};
pub use stop::stop;

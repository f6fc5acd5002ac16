//! The rules of a Convoke cluster as a pure state machine: no I/O, no clock, no randomness.

mod change;
mod config;
mod core;
mod denied;
mod event;
mod phase;
mod state;
mod view;

pub use change::{Change, Changes, Effect};
pub use config::*;
pub use core::Core;
pub use denied::Denied;
pub use event::{AlreadySo, Decision, Event, Observation};
pub use phase::{Draining, Phase, Queued, Running, Stage, Starting, Then};
pub use state::{FailedGeneration, Gang, Ghost, Job, JobRun, Node, State, UniqueId};
pub use view::{DeviceUse, JobView, NodeView, Plan, ReplicaView};

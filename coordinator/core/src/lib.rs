//! The rules of a Convoke cluster as a pure state machine: no I/O, no clock, no randomness.

mod apply;
mod change;
mod checkpoints;
mod config;
mod core;
mod deadline;
mod denied;
mod draft;
mod event;
mod gang;
mod nodes;
mod phase;
mod place;
mod queue;
mod session;
mod settle;
mod state;
mod submit;
mod unique_ids;
mod view;

pub use change::{Change, Changes, Effect};
pub use config::*;
pub use core::Core;
pub use denied::Denied;
pub use event::{AlreadySo, Decision, Event, Observation};
pub use phase::{Draining, Phase, Queued, Release, Running, Stage, Starting, Then};
pub use state::{FailedGeneration, Gang, Ghost, Job, JobRun, Node, State, UniqueId};
pub use view::{DeviceUse, JobView, NodeView, Plan, ReplicaView};

//! The rules of a Convoke cluster as a pure state machine: no I/O, no clock, no randomness.
//!
//! # How it is driven
//! One owner calls [`Core::decide`] with the time and an [`Event`]. The answer is one of three:
//! [`Changes`] to commit and then [`Core::apply`] (which returns [`Effect`]s to act on), "already
//! so", or [`Denied`] with a named reason. A replay of the ledger is `apply` again. Sessions come
//! and go through [`Core::observe`]; of them only the loss of a node is durable. When time alone
//! would change something, [`Core::next_deadline`] says when to decide [`Event::Tick`].
//!
//! A decision is made on a draft: a copy of the state on which each change takes effect at once.
//! First leases that have run out become losses, then the event is handled, then everything that
//! follows is settled: each gang is judged until nothing follows any more (`gang`, carried out by
//! `settle`), the queue is placed (`queue`, `place`), and what nobody needs is dropped
//! (`checkpoints`). Rules are level-triggered: they look at what is, never at what just happened,
//! so a message that is lost, late or repeated does no harm.
//!
//! # What the rules rest on
//! - The last report of each node is durable and whole. A replica of the current generation is as
//!   far as its node's last report says; what had ended stays so.
//! - A device is free when no gang and no ghost holds it. A ghost is a replica that is no longer
//!   wanted and not known to have ended, as on a lost node. Only its node's own word frees it: an
//!   end, or its absence from a report that has applied the revision which dismissed it.
//! - So an agent reports after every desired state that it accepts, even if nothing else changed.
//! - One decision makes at most one revision, and names the nodes whose desired state it changed.
//! - Silence alone never ends healthy work: it takes a lease, and not within the reconnect window
//!   after a start. A node that is suspect while its gang has failed is not waited for: those are
//!   two witnesses. A fenced job is waited for until its fence has certainly fallen.
//! - What a failure is charged to is decided when the gang is over and every exit is known, since
//!   survivors of a killed rank often exit before the killed one is reported.

mod apply;
mod blame;
mod change;
mod checkpoints;
mod config;
mod connect;
mod core;
mod deadline;
mod denied;
mod depends;
mod draft;
mod event;
mod gang;
mod nodes;
mod pauses;
mod phase;
mod place;
mod project;
mod queue;
mod rendezvous;
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
pub use state::{FailedGeneration, FilesOf, Gang, Ghost, Job, JobRun, Node, State, UniqueId};
pub use view::{DeviceUse, JobView, NodeView, Plan, ReplicaView};

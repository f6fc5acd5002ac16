//! The vocabulary of Convoke: plain, strict values with no I/O and no wire format.
//!
//! Everything that two parts must agree on lives here once: identifiers as newtypes, the job
//! specification, placement, the rendezvous, and what an agent is told and reports. Values that
//! come from outside are validated when they are made (`TryFrom` in `convoke-proto`, the Compose
//! reader), so the rest of the code can trust them. All types serialise with serde: the ledger
//! keeps them as JSON, so new fields need a `#[serde(default)]`.

mod artifact;
mod checkpoint;
mod container;
mod desired;
mod event;
mod explanation;
mod gpu;
mod ids;
mod job;
mod marker;
mod node;
mod observed;
mod placement;
mod signal;
mod spec;
mod time;
mod tree;

pub use artifact::*;
pub use checkpoint::*;
pub use container::*;
pub use desired::*;
pub use event::*;
pub use explanation::*;
pub use gpu::*;
pub use ids::*;
pub use job::*;
pub use marker::*;
pub use node::*;
pub use observed::*;
pub use placement::*;
pub use signal::*;
pub use spec::*;
pub use time::*;
pub use tree::*;

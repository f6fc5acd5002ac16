//! The agent of one node: desired state in, observed state out.
//!
//! What happens on the host is in [`runtime`] (tasks and the shims that own them), [`spool`] (their
//! output), [`devices`], [`ports`], [`interfaces`] and [`mod@env`]; none of these knows the coordinator.
//! [`session`] and [`link`] talk to it, [`reconciler`] decides by [`plan`], [`services`] run beside each
//! started task.

pub mod accept;
pub mod app;
pub mod beneath;
mod blocking;
pub mod checkpoint;
pub mod clock;
pub mod conditions;
pub mod devices;
pub mod engine;
pub mod env;
pub mod files;
pub mod home;
pub mod host;
pub mod interfaces;
pub mod ledger;
pub mod link;
pub mod options;
pub mod peers;
pub mod plan;
pub mod ports;
pub mod progress;
pub mod reconciler;
pub mod replica;
pub mod runtime;
pub mod services;
pub mod session;
pub mod shim;
pub mod socket;
pub mod spool;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod tunnel;
pub mod usage;
pub mod work;

//! The agent of one node: desired state in, observed state out.
//!
//! What happens on the host is in [`runtime`] (tasks and the shims that own them), [`spool`] (their
//! output), [`devices`], [`ports`], [`interfaces`] and [`env`]. Nothing here knows the coordinator.

pub mod devices;
pub mod env;
pub mod interfaces;
pub mod ports;
pub mod runtime;
pub mod shim;
pub mod spool;

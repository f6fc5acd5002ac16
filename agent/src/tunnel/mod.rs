//! Reaching into a task for an operator: a command in it, its ports, its files.
//!
//! The coordinator announces a tunnel on the control stream; the agent calls back on a connection of
//! its own, names the tunnel, and serves it until its last frame. A tunnel that cannot be served ends
//! with a frame that says why. It lives no longer than its operator: when the coordinator closes the
//! call, what was begun for it is dropped.

mod connect;
mod copy;
mod exec;
mod frames;
mod serve;

pub use serve::Tunnels;

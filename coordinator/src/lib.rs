//! The coordinator's shell: it owns the core, the ledger, the sessions, the checkpoint store, the files
//! that travel and the telemetry, and serves them over gRPC. Rules live in `convoke-core`; this crate performs.

mod api;
mod clock;
mod data_dir;
mod database;
mod files;
mod gpus;
mod hashed;
mod ledger;
mod lifeline;
mod options;
mod owner;
mod questions;
mod serve;
mod sessions;
mod store;
mod telemetry;
mod tunnels;
mod turns;

pub use options::{BlobOptions, DEFAULT_LISTEN, Retention, ServeOptions, default_data_dir};
pub use serve::{ServeError, serve};

//! The coordinator's shell: it owns the core, the ledger, the sessions, the checkpoint store and
//! the telemetry, and serves them over gRPC. Rules live in `convoke-core`; this crate performs.

pub mod clock;
pub mod data_dir;
pub mod ledger;
mod options;

pub use options::{DEFAULT_LISTEN, Retention, ServeOptions, default_data_dir};

/// Why the coordinator could not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{0}")]
    Refused(String),
}

/// Runs the coordinator until `shutdown` resolves, then drains for at most `options.drain`.
pub async fn serve(
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let _ = options;
    shutdown.await;
    Err(ServeError::Refused("not built yet".to_owned()))
}

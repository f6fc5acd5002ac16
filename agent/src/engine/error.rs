//! Why the engine did not do what it was asked.

use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use bollard::errors::Error as BollardError;

use super::ApiVersion;
use super::info::OLDEST_API;

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(
        "there is no Docker Engine at {}; install it (Debian: docker.io) and start it, or give its socket with \
         --docker-socket", socket.display()
    )]
    Missing { socket: PathBuf },
    #[error(
        "this user may not use the Docker Engine at {}; add the user to the group docker, or run the agent as root",
        socket.display()
    )]
    Forbidden { socket: PathBuf },
    #[error("nobody listens at {}; start the Docker Engine (systemctl start docker)", socket.display())]
    NotRunning { socket: PathBuf },
    #[error(
        "the Docker Engine at {} is version {version} with API {api}; Convoke needs API {OLDEST_API} or newer: \
         install Docker Engine 20.10 or newer", socket.display()
    )]
    TooOld { socket: PathBuf, version: String, api: ApiVersion },
    #[error(
        "what listens at {} does not answer as a Docker Engine does ({problem}); give the engine's socket with \
         --docker-socket", socket.display()
    )]
    NotAnEngine { socket: PathBuf, problem: String },
    #[error("the Docker Engine at {} {what}: it did not answer in time; look at its log", socket.display())]
    Silent { socket: PathBuf, what: String },
    /// It answered, with a refusal of its own.
    #[error("the Docker Engine {what}: {message}")]
    Refused { what: String, status: u16, message: String },
    #[error(
        "the container name \"{name}\" is already in use by {by}; give one of the two another container_name, or end \
         the other first"
    )]
    NameTaken { name: String, by: String },
    #[error("the Docker Engine at {} {what}", socket.display())]
    Broken { socket: PathBuf, what: String, source: BollardError },
}

impl EngineError {
    pub(crate) fn of(socket: &Path, what: &str, error: BollardError) -> Self {
        let socket = socket.to_owned();
        let what = what.to_owned();
        match error {
            BollardError::DockerResponseServerError { status_code, message } => {
                Self::Refused { what, status: status_code, message }
            }
            BollardError::DockerStreamError { error } => Self::Refused { what, status: 500, message: error },
            BollardError::SocketNotFoundError(_) => Self::Missing { socket },
            BollardError::RequestTimeoutError => Self::Silent { socket, what },
            BollardError::JsonDataError { message, .. } => Self::NotAnEngine { socket, problem: message },
            BollardError::JsonSerdeError { err } => Self::NotAnEngine { socket, problem: err.to_string() },
            BollardError::APIVersionParseError {} => {
                Self::NotAnEngine { socket, problem: "it tells no API version".to_owned() }
            }
            source => match io_kind(&source) {
                Some(kind) => Self::of_kind(socket, what, kind, source),
                None => Self::Broken { socket, what, source },
            },
        }
    }

    pub(crate) fn of_io(socket: &Path, what: &str, error: io::Error) -> Self {
        Self::of_kind(socket.to_owned(), what.to_owned(), error.kind(), error.into())
    }

    fn of_kind(socket: PathBuf, what: String, kind: ErrorKind, source: BollardError) -> Self {
        match kind {
            ErrorKind::NotFound => Self::Missing { socket },
            ErrorKind::PermissionDenied => Self::Forbidden { socket },
            ErrorKind::ConnectionRefused => Self::NotRunning { socket },
            ErrorKind::TimedOut => Self::Silent { socket, what },
            _ => Self::Broken { socket, what, source },
        }
    }

    /// True if no engine answered: it may be back later, and what was asked may or may not have been
    /// done.
    pub fn is_away(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. } | Self::NotRunning { .. } | Self::Silent { .. } | Self::Broken { .. }
        )
    }

    /// True if what was asked for is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}

/// The I/O error below an HTTP client's.
fn io_kind(error: &BollardError) -> Option<ErrorKind> {
    let mut source = error.source();
    if let BollardError::IOError { err } = error {
        return Some(err.kind());
    }
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        source = cause.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As root, which may use every socket, this cannot be had from a real one.
    #[test]
    fn a_socket_that_may_not_be_used_is_told_with_what_to_do() {
        let error =
            EngineError::of_io(Path::new("/s"), "cannot be dialled", ErrorKind::PermissionDenied.into());
        assert!(matches!(error, EngineError::Forbidden { .. }) && !error.is_away(), "{error}");
        assert!(error.to_string().contains("group docker"), "{error}");
    }
}

//! The node's Docker Engine: the connection, what the engine can do, how a container's request is made.
//!
//! An [`Engine`] holds no connection open: each request dials the socket, so that an engine that was
//! restarted is simply there again, and one that is gone is an [`EngineError`] that says so
//! ([`EngineError::is_away`]). Every request has a deadline.

pub mod create;
mod error;
pub mod gpu;
pub mod images;
mod info;
mod ulimits;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use convoke_model::GpuInjection;
use tokio::net::UnixStream;

pub use error::EngineError;
pub use info::{ApiVersion, EngineInfo};
pub use ulimits::RefusedUlimits;

/// Where Docker's packages put the socket.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// How long the engine may take to begin its answer: a create or a start on a host whose disks are
/// busy takes tens of seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Longer than any transfer that is still moving.
const PATIENCE: Duration = Duration::from_secs(86_400);
/// For what is answered from memory.
const PROMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// A way to the node's Docker Engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    socket: PathBuf,
    gpu_injection: Option<GpuInjection>,
}

impl Engine {
    /// Dials the engine, and refuses one that is too old.
    pub async fn connect(socket: &Path) -> Result<Self, EngineError> {
        reach(socket).await?;
        let docker = Docker::connect_with_unix(
            &socket.to_string_lossy(),
            ANSWER_TIMEOUT.as_secs(),
            bollard::API_DEFAULT_VERSION,
        )
        .map_err(|e| EngineError::of(socket, "cannot be dialled", e))?
        .with_request_modifier(registry_auth_as_engines_read_it);
        let engine = Self { docker, socket: socket.to_owned(), gpu_injection: None };
        let version = engine.prompt("does not tell its version", engine.docker.version()).await?;
        info::check(socket, &version)?;
        // Lowers the client's version to the engine's where that is the older one.
        let negotiating = engine.docker.clone().negotiate_version();
        let docker = engine.prompt("does not tell its version", negotiating).await?;
        Ok(Self { docker, ..engine })
    }

    /// Sets how containers get GPUs, instead of what is found.
    #[must_use]
    pub fn with_gpu_injection(mut self, injection: Option<GpuInjection>) -> Self {
        self.gpu_injection = injection;
        self
    }

    /// The client, for what this module has no verb for.
    pub fn docker(&self) -> &Docker {
        &self.docker
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the engine says of itself, and how its containers get GPUs.
    pub async fn info(&self) -> Result<EngineInfo, EngineError> {
        let version = self.prompt("does not tell its version", self.docker.version()).await?;
        let system = self.prompt("does not describe itself", self.docker.info()).await?;
        let mut info = EngineInfo::of(&self.socket, &version, system)?;
        let root = Path::new("/");
        info.gpu_injection = self.gpu_injection.or_else(|| gpu::detect(root, &info));
        Ok(info)
    }

    /// Gives a request's failure its name. `what` completes "the Docker Engine …".
    pub fn error(&self, what: &str, error: bollard::errors::Error) -> EngineError {
        EngineError::of(&self.socket, what, error)
    }

    /// A client that waits for an answer as long as the caller does, who watches what moves.
    pub(crate) fn patient(&self) -> Docker {
        self.docker.clone().with_timeout(PATIENCE)
    }

    async fn prompt<T>(
        &self,
        what: &str,
        request: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, EngineError> {
        match tokio::time::timeout(PROMPT_TIMEOUT, request).await {
            Ok(answer) => answer.map_err(|e| self.error(what, e)),
            Err(_) => Err(EngineError::Silent { socket: self.socket.clone(), what: what.to_owned() }),
        }
    }
}

/// Tells a missing socket from a forbidden one and from one that nobody listens on, which an HTTP
/// client's error does not.
async fn reach(socket: &Path) -> Result<(), EngineError> {
    match tokio::time::timeout(PROMPT_TIMEOUT, UnixStream::connect(socket)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(EngineError::of_io(socket, "cannot be dialled", error)),
        Err(_) => Err(EngineError::of_io(socket, "cannot be dialled", io::ErrorKind::TimedOut.into())),
    }
}

/// Engines read `X-Registry-Auth` in the URL's base64 alphabet, and take what they cannot read for no
/// credentials at all; bollard writes the standard one, which differs where a password has `?`, `>` or
/// `~`, or letters beyond ASCII.
fn registry_auth_as_engines_read_it(mut request: bollard::BollardRequest) -> bollard::BollardRequest {
    if let Some(value) = request.headers_mut().get_mut("X-Registry-Auth")
        && let Ok(text) = value.to_str()
        && let Ok(url_safe) = text.replace('+', "-").replace('/', "_").parse()
    {
        *value = url_safe;
    }
    request
}

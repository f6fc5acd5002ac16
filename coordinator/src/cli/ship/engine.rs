//! The submitter's own container engine, where there is one: its API for what images are, the `docker`
//! command for what needs the user's builders and credentials.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ImageInspect;
use tokio::process::Command;

use crate::cli::failure::{Failure, exit, root_cause};

/// How long the engine may take to say that it is there.
const GREETING: Duration = Duration::from_secs(5);
/// How long a registry may take to say what a name means. Nodes can pull without knowing.
const REGISTRY: Duration = Duration::from_secs(15);
/// An engine writes a whole image aside before the first byte of an export comes.
const EXPORT: Duration = Duration::from_secs(3600);

const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

pub(super) struct Engine {
    pub(super) api: Docker,
}

impl Engine {
    /// Connects to the engine that the `docker` command would use; the error says why there is none.
    pub(super) async fn connect() -> Result<Self, String> {
        let host = host().await;
        let seconds = EXPORT.as_secs();
        let version = bollard::API_DEFAULT_VERSION;
        let connected = match host.split_once("://") {
            Some(("unix", path)) if !Path::new(path).exists() => return Err(format!("{path} is not there")),
            Some(("unix", _)) => Docker::connect_with_unix(&host, seconds, version),
            Some(("tcp" | "http", _)) if std::env::var_os("DOCKER_TLS_VERIFY").is_none() => {
                Docker::connect_with_http(&host, seconds, version)
            }
            _ => return Err(format!("{host} cannot be used: only unix:// and tcp:// without TLS")),
        };
        let api = connected.map_err(|e| root_cause(&e))?;
        match tokio::time::timeout(GREETING, api.ping()).await {
            Ok(Ok(_)) => Ok(Self { api }),
            Ok(Err(error)) => Err(format!("{host}: {}", root_cause(&error))),
            Err(_) => Err(format!("{host} did not answer within {GREETING:?}")),
        }
    }

    /// An image that the engine has.
    pub(super) async fn image(&self, name: &str) -> Result<Option<ImageInspect>, Failure> {
        match self.api.inspect_image(name).await {
            Ok(image) => Ok(Some(image)),
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
            Err(error) => Err(failed("say what it has", &error)),
        }
    }

    /// What the registry means by a name; the error is its reason.
    pub(super) async fn registry_digest(&self, name: &str) -> Result<String, String> {
        match tokio::time::timeout(REGISTRY, self.api.inspect_registry_image(name, None)).await {
            Ok(Ok(answer)) => answer.descriptor.digest.ok_or_else(|| "it names no digest".to_owned()),
            Ok(Err(Error::DockerResponseServerError { message, .. })) => Err(message),
            Ok(Err(error)) => Err(root_cause(&error)),
            Err(_) => Err(format!("no answer within {REGISTRY:?}")),
        }
    }
}

pub(super) fn failed(what: &str, error: &Error) -> Failure {
    let why = match error {
        Error::DockerResponseServerError { message, .. } => message.clone(),
        other => root_cause(other),
    };
    Failure::new(exit::FAILED, "ENGINE", format!("the Docker Engine here cannot {what}: {why}"))
        .hint("`docker info` shows how it is; --no-ship-image leaves images to the nodes")
}

/// The address in use: the environment's, or the `docker` command's current context.
async fn host() -> String {
    if let Some(host) = std::env::var("DOCKER_HOST").ok().filter(|h| !h.is_empty()) {
        return host;
    }
    let mut command = Command::new("docker");
    command.args(["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]);
    command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(GREETING, command.output()).await {
        Ok(Ok(output)) if output.status.success() => {
            let host = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if host.is_empty() { DEFAULT_HOST.to_owned() } else { host }
        }
        _ => DEFAULT_HOST.to_owned(),
    }
}

/// Runs the `docker` command; what it says goes to stderr as it comes.
pub(super) async fn docker(
    args: &[String],
    dir: &Path,
    input: Option<&str>,
    what: &str,
) -> Result<(), Failure> {
    use tokio::io::AsyncWriteExt as _;
    let mut command = Command::new("docker");
    command.args(args).current_dir(dir).kill_on_drop(true);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(io::stderr());
    let mut child = command.spawn().map_err(|error| no_command(what, &error))?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // A command that did not want it says why by its end.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let status = child.wait().await?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::new(
        exit::FAILED,
        "DOCKER_COMMAND",
        format!("{what} failed ({status}); docker says why above"),
    ))
}

fn no_command(what: &str, error: &io::Error) -> Failure {
    Failure::new(exit::FAILED, "NO_DOCKER", format!("{what} needs the `docker` command: {error}")).hint(
        "install Docker's command line here, or build the image elsewhere, push it to a registry and name it \
         with `image:`",
    )
}

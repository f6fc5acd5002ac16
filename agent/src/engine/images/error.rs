//! Why an image could not be had.

use std::io;
use std::path::PathBuf;

use bytesize::ByteSize;

use super::{BadReference, Reference};
use crate::engine::EngineError;

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    BadReference(#[from] BadReference),
    #[error("there is no image {reference} at {registry}; check its name and tag, or push it there")]
    NotFound { reference: String, registry: String },
    #[error("this node has no image {id}, and an id cannot be pulled; give the image by its name")]
    NoSuchId { id: String },
    #[error(
        "the registry {registry} refuses {login} to pull {reference}: there is no such image, or it is private; \
         run `docker login {registry}` on this node as the agent's user, and check the name"
    )]
    Denied { reference: String, registry: String, login: String },
    #[error(
        "the registry {registry} allows no more pulls for now ({problem}); run `docker login {registry}` on this node, or wait"
    )]
    TooManyPulls { registry: String, problem: String },
    #[error(
        "the registry {registry} cannot be reached from this node to pull {reference}: {problem}{advice}"
    )]
    Unreachable { reference: String, registry: String, problem: String, advice: &'static str },
    #[error("no space is left for {what} below {}: {} are free, and it needs {}; free some, or lower --keep-free", path.display(), ByteSize(*free).display().iec(), ByteSize(*needed).display().iec())]
    NoSpace { what: String, path: PathBuf, free: u64, needed: u64 },
    #[error("the disk filled up while the engine fetched {what}; free some space below {}: {problem}", path.display())]
    DiskFull { what: String, path: PathBuf, problem: String },
    #[error(
        "what the registry sent for {reference} is not what its digest says; push the image again: {problem}"
    )]
    Damaged { reference: String, problem: String },
    #[error("{reference} is not made for this node's processor: {problem}")]
    WrongPlatform { reference: String, problem: String },
    #[error("nothing moved for {seconds} s while {what} was fetched; the registry or the engine hangs")]
    Stalled { what: String, seconds: u64 },
    #[error("what was shipped as an image is not what `docker save` writes: {problem}; submit the job again")]
    Malformed { problem: String },
    #[error("a file of the shipped image could not be had")]
    Blob { source: io::Error },
    #[error("the engine made {found} of the shipped image {wanted}; submit the job again")]
    WrongImage { wanted: String, found: String },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ImageError {
    /// True if another try, perhaps on another node, may help without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::BadReference(_)
            | Self::NotFound { .. }
            | Self::NoSuchId { .. }
            | Self::Denied { .. }
            | Self::WrongPlatform { .. }
            | Self::Malformed { .. }
            | Self::WrongImage { .. } => false,
            Self::TooManyPulls { .. }
            | Self::Unreachable { .. }
            | Self::NoSpace { .. }
            | Self::DiskFull { .. }
            | Self::Damaged { .. }
            | Self::Stalled { .. }
            | Self::Blob { .. } => true,
            Self::Engine(error) => error.is_away(),
        }
    }
}

/// A pull that the engine gave up: what its message, and the registry's in it, mean.
pub(super) fn of_pull(
    error: EngineError,
    reference: &Reference,
    login: &str,
    data_root: PathBuf,
) -> ImageError {
    let EngineError::Refused { message, .. } = &error else { return error.into() };
    let problem = message.clone();
    let text = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let (name, registry) = (reference.to_string(), reference.registry().to_owned());
    if says(&["no space left on device", "disk quota exceeded"]) {
        ImageError::DiskFull { what: name, path: data_root, problem }
    } else if says(&["toomanyrequests", "too many requests"]) {
        ImageError::TooManyPulls { registry, problem }
    } else if says(&[
        "unauthorized",
        "no basic auth credentials",
        "denied",
        "authentication required",
        "403 forbidden",
    ]) {
        ImageError::Denied { reference: name, registry, login: login.to_owned() }
    } else if says(&["no matching manifest"]) {
        ImageError::WrongPlatform { reference: name, problem }
    } else if says(&["verification failed", "does not match", "unexpected commit digest", "unexpected size"])
    {
        ImageError::Damaged { reference: name, problem }
    } else if says(&[
        "manifest unknown",
        "name unknown",
        "not found: manifest",
        "no such image",
        ": not found",
    ]) {
        ImageError::NotFound { reference: name, registry }
    } else if let Some(advice) = unreachable(&text) {
        ImageError::Unreachable { reference: name, registry, problem, advice }
    } else {
        error.into()
    }
}

/// What to do about a registry that cannot be spoken with; `None` if the message says nothing like it.
fn unreachable(text: &str) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["x509:", "certificate"]) {
        Some("; put its authority's certificate in /etc/docker/certs.d")
    } else if says(&["server gave http response to https"]) {
        Some(
            "; it speaks no TLS: add it to insecure-registries in /etc/docker/daemon.json, if you trust the way to it",
        )
    } else if says(&["no such host", "server misbehaving"]) {
        Some("; check the name, and this node's DNS")
    } else if says(&[
        "dial tcp",
        "connection refused",
        "timeout",
        "deadline exceeded",
        "connection reset",
        "eof",
        "network is",
        "unexpected http status",
        "proxyconnect",
    ]) {
        Some("; check that it runs, and this node's route, firewall and proxy")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(message: &str) -> ImageError {
        let error = EngineError::Refused { what: String::new(), status: 500, message: message.to_owned() };
        of_pull(error, &Reference::parse("h.io/team/x:1").unwrap(), "nobody", "/var/lib/docker".into())
    }

    /// Messages of Docker Engine 20.10 and newer.
    #[test]
    fn what_the_engine_says_of_a_failed_pull_gets_a_name() {
        use ImageError::*;
        let is = |message: &str, matches: fn(&ImageError) -> bool| {
            let error = named(message);
            assert!(matches(&error), "{message}\nis {error:?}");
        };
        is("manifest for h.io/team/x:1 not found: manifest unknown: manifest unknown", |e| {
            matches!(e, NotFound { .. })
        });
        is("failed to resolve reference \"h.io/team/x:1\": h.io/team/x:1: not found", |e| {
            matches!(e, NotFound { .. })
        });
        is("unauthorized: authentication required", |e| matches!(e, Denied { .. }));
        is("Head \"http://h.io/v2/team/x/manifests/1\": no basic auth credentials", |e| {
            matches!(e, Denied { .. })
        });
        is(
            "pull access denied for x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
            |e| matches!(e, Denied { .. }),
        );
        is(
            "toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating",
            |e| matches!(e, TooManyPulls { .. }),
        );
        is(
            "Get \"https://h.io/v2/\": dial tcp: lookup h.io on 10.0.0.2:53: no such host",
            |e| matches!(e, Unreachable { advice, .. } if advice.contains("DNS")),
        );
        is("Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused", |e| {
            matches!(e, Unreachable { .. })
        });
        is(
            "Get \"https://h.io/v2/\": http: server gave HTTP response to HTTPS client",
            |e| matches!(e, Unreachable { advice, .. } if advice.contains("insecure-registries")),
        );
        is(
            "Get \"https://h.io/v2/\": x509: certificate signed by unknown authority",
            |e| matches!(e, Unreachable { advice, .. } if advice.contains("certs.d")),
        );
        is("received unexpected HTTP status: 503 Service Unavailable", |e| matches!(e, Unreachable { .. }));
        is("write /var/lib/docker/tmp/GetImageBlob370: no space left on device", |e| {
            matches!(e, DiskFull { .. })
        });
        is("filesystem layer verification failed for digest sha256:12", |e| matches!(e, Damaged { .. }));
        is("no matching manifest for linux/arm64/v8 in the manifest list entries", |e| {
            matches!(e, WrongPlatform { .. })
        });
        is("something else altogether", |e| matches!(e, Engine(_)));
    }

    #[test]
    fn an_image_that_is_not_there_is_not_looked_for_again_and_a_registry_that_is_away_is() {
        assert!(!named("manifest unknown").is_retryable());
        assert!(!named("denied").is_retryable());
        assert!(named("dial tcp: connection refused").is_retryable());
        let told = named("unauthorized").to_string();
        assert!(told.contains("docker login h.io") && told.contains("h.io/team/x:1"), "{told}");
    }
}

//! Secrets and configs: files of the submitter's, mounted read-only at the places that Compose says.
//!
//! They do not enter the cache: their bytes are in a directory of the replica's that is closed to
//! others, and go with it. Each is readable by whoever the job runs as (mode 0444), as Compose has it.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use convoke_model::{ContainerOptions, Digest, FileGrant, NodeId};
use convoke_tree::Kind;

use super::cache::{FetchError, fetch};
use super::{HostMount, HostSource};
use crate::link::Link;
use crate::work::Refusal;

/// Secrets are keys and configs are text: what is larger is data, for a volume.
const MAX_BYTES: u64 = 64 << 20;
const MODE: u32 = 0o444;

/// A grant and where it is mounted.
struct Grant<'a> {
    what: &'static str,
    grant: &'a FileGrant,
    target: String,
}

/// Where they are in a replica's directory.
pub(super) fn directory(replica: &Path) -> PathBuf {
    replica.join("grants")
}

/// Brings the job's secrets and configs to `directory`.
pub(super) async fn lay_out(
    link: &Link,
    options: &ContainerOptions,
    directory: &Path,
    node: &NodeId,
) -> Result<Vec<HostMount>, Refusal> {
    let mut mounts = Vec::new();
    for (n, Grant { what, grant, target }) in all(options).enumerate() {
        let source = &grant.source;
        let Some(content) = &grant.content else {
            return Err(Refusal::for_good(format!(
                "{what} {source} did not come with the job to node {node}: it was submitted by a client that does \
                 not ship files; submit it again with this version's `convoke up`"
            )));
        };
        let bytes = read(link, content.digest).await.map_err(|error| {
            let message = format!("{what} {source} cannot be brought to node {node}: {error}");
            match &error {
                ReadError::Fetch(error) => super::judged(error, message),
                ReadError::NotAFile => Refusal::for_good(message),
            }
        })?;
        let path = directory.join(n.to_string());
        write(&path, &bytes).map_err(|e| {
            Refusal::for_now(format!("{what} {source} cannot be written on node {node}: {e}"))
        })?;
        mounts.push(HostMount { source: HostSource::Path(path), target, read_only: true });
    }
    Ok(mounts)
}

fn all(options: &ContainerOptions) -> impl Iterator<Item = Grant<'_>> {
    let of = |what, directory| move |grant| Grant { what, grant, target: target(grant, directory) };
    options
        .secrets
        .iter()
        .map(of("secret", "/run/secrets/"))
        .chain(options.configs.iter().map(of("config", "/")))
}

/// By Compose's rules: an absolute target as it is, else a name in `directory`.
fn target(grant: &FileGrant, directory: &str) -> String {
    let name = grant.target.as_deref().unwrap_or(&grant.source);
    if name.starts_with('/') { name.to_owned() } else { format!("{directory}{name}") }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("it is not a file")]
    NotAFile,
}

/// The content of a tree that is a single file.
async fn read(link: &Link, tree: Digest) -> Result<Vec<u8>, ReadError> {
    let manifest = fetch::manifest(link, tree).await?;
    match manifest.entries.as_slice() {
        [entry] if manifest.is_single_file() => match entry.kind {
            Kind::File { digest, .. } => Ok(fetch::small(link, digest, MAX_BYTES).await?),
            Kind::Dir | Kind::Symlink { .. } => Err(ReadError::NotAFile),
        },
        _ => Err(ReadError::NotAFile),
    }
}

fn write(path: &PathBuf, bytes: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    fs::write(path, bytes)?;
    fs::set_permissions(path, Permissions::from_mode(MODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_where_compose_puts_them() {
        let grant = |target: Option<&str>| FileGrant {
            source: "token".into(),
            file: None,
            target: target.map(str::to_owned),
            content: None,
        };
        let options = ContainerOptions {
            secrets: vec![grant(None), grant(Some("other")), grant(Some("/etc/token"))],
            configs: vec![grant(None), grant(Some("other")), grant(Some("/etc/token"))],
            ..ContainerOptions::default()
        };
        let targets: Vec<_> = all(&options).map(|grant| grant.target).collect();
        assert_eq!(
            targets,
            ["/run/secrets/token", "/run/secrets/other", "/etc/token", "/token", "/other", "/etc/token"]
        );
    }
}

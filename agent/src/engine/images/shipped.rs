//! An image that came with the job: a tree of what `docker save` unpacks to.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use convoke_model::Digest;
use convoke_tree::{Entry, Kind, Manifest};
use futures::future::BoxFuture;
use serde::Deserialize;

use super::ImageError;

/// Gives a file that holds the blob, fetching it first where needed. Called only for what the engine
/// does not have already.
pub type BlobPath = Arc<dyn Fn(Digest) -> BoxFuture<'static, io::Result<PathBuf>> + Send + Sync>;

/// An image's tree, and the way to its files.
#[derive(Clone)]
pub struct Shipped {
    pub manifest: Arc<Manifest>,
    pub blob: BlobPath,
}

/// What the tree says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contents {
    /// Its digest names the image.
    pub(super) config: File,
    /// The lowest first.
    pub(super) layers: Vec<Layer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct File {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) file: File,
    /// Of its content, unpacked: `sha256:…`.
    pub(super) diff_id: String,
}

impl Contents {
    /// The image's id, but on an engine that names images by their manifests.
    pub(super) fn id(&self) -> String {
        format!("sha256:{}", self.config.digest)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// More than any image's manifest or configuration: they are some kilobytes.
const MAX_JSON: u64 = 16 << 20;

impl Shipped {
    /// Reads what the image is made of: two small files.
    pub(super) async fn contents(&self) -> Result<Contents, ImageError> {
        let saved: Vec<Saved> = self.json(self.file("manifest.json")?).await?;
        let [saved] = saved.as_slice() else {
            return Err(malformed(format!("it holds {} images instead of one", saved.len())));
        };
        let config = self.file(&saved.config)?;
        let Config { rootfs } = self.json(config).await?;
        if rootfs.diff_ids.len() != saved.layers.len() {
            let (files, named) = (saved.layers.len(), rootfs.diff_ids.len());
            return Err(malformed(format!("it has {files} layers, and its configuration names {named}")));
        }
        let layer = |(path, diff_id): (&String, String)| {
            Ok::<_, ImageError>(Layer { file: self.file(path)?, diff_id })
        };
        let layers =
            saved.layers.iter().zip(rootfs.diff_ids).map(layer).collect::<Result<_, ImageError>>()?;
        Ok(Contents { config, layers })
    }

    async fn json<T: serde::de::DeserializeOwned>(&self, file: File) -> Result<T, ImageError> {
        if file.size > MAX_JSON {
            return Err(malformed(format!("a JSON file of it has {} bytes", file.size)));
        }
        let blob = |source| ImageError::Blob { source };
        let path = (self.blob)(file.digest).await.map_err(blob)?;
        let bytes = tokio::fs::read(path).await.map_err(blob)?;
        serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))
    }

    /// The regular file at `path`; `docker save` links layers that are equal.
    fn file(&self, path: &str) -> Result<File, ImageError> {
        const MAX_LINKS: usize = 8;
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let entry = self.manifest.entries.iter().find(|entry| entry.path == path);
            match entry {
                Some(Entry { kind: Kind::File { size, digest }, .. }) => {
                    return Ok(File { digest: *digest, size: *size });
                }
                Some(Entry { kind: Kind::Symlink { target }, .. }) => path = beside(&path, target),
                _ => return Err(malformed(format!("it has no file {path}"))),
            }
        }
        Err(malformed(format!("its links at {path} lead nowhere")))
    }
}

/// Where a link at `path` to `target` leads.
fn beside(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn malformed(problem: String) -> ImageError {
    ImageError::Malformed { problem }
}

#[cfg(test)]
mod tests;

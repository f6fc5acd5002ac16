//! The archive that an engine loads an image from, as a stream: it is never on disk, nor whole in
//! memory.

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use convoke_model::Digest;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use super::shipped::{Contents, File};

/// Read from disk and handed on at a time.
const CHUNK: usize = 256 << 10;
/// Chunks between the reader and the socket: enough that neither waits for the other's every step.
pub(super) const CHUNKS: usize = 4;
const BLOCK: usize = 512;

pub(super) type Chunk = io::Result<Bytes>;

/// What goes into an archive.
#[derive(Debug, Clone)]
pub(super) struct Archive {
    contents: Contents,
    /// Files of the configuration, and of the layers that are sent.
    files: Vec<(File, PathBuf)>,
}

/// The files that an archive of `contents` needs without its lowest `skip` layers, each once.
pub(super) fn files(contents: &Contents, skip: usize) -> Vec<File> {
    let mut files = vec![contents.config];
    for layer in contents.layers.iter().skip(skip) {
        // Equal layers are one file.
        if !files.contains(&layer.file) {
            files.push(layer.file);
        }
    }
    files
}

impl Archive {
    pub(super) fn new(contents: Contents, files: Vec<(File, PathBuf)>) -> Self {
        Self { contents, files }
    }

    /// Writes it to `out`; what fails is told there too, so that the engine takes no part for the whole.
    pub(super) async fn write(self, tag: String, out: mpsc::Sender<Chunk>) -> io::Result<()> {
        let written = self.write_to(&tag, &out).await;
        if let Err(error) = &written {
            // If nobody listens any more, nobody needs to know.
            let _ = out.send(Err(io::Error::new(error.kind(), error.to_string()))).await;
        }
        written
    }

    async fn write_to(&self, tag: &str, out: &mpsc::Sender<Chunk>) -> io::Result<()> {
        let layers: Vec<String> = self.contents.layers.iter().map(|layer| name(layer.file.digest)).collect();
        let config = name(self.contents.config.digest);
        let manifest = json!([{ "Config": config, "RepoTags": [tag], "Layers": layers }]).to_string();
        let size = manifest.len() as u64;
        send(out, header("manifest.json", size)?).await?;
        send(out, manifest.into_bytes().into()).await?;
        send(out, padding(size)).await?;
        for (file, path) in &self.files {
            append(&name(file.digest), file.size, path, out).await?;
        }
        // Two empty blocks end an archive.
        send(out, Bytes::from_static(&[0; 2 * BLOCK])).await
    }
}

/// A file's name in the archive, whatever it is.
fn name(digest: Digest) -> String {
    format!("{digest}.blob")
}

async fn append(name: &str, size: u64, path: &Path, out: &mpsc::Sender<Chunk>) -> io::Result<()> {
    send(out, header(name, size)?).await?;
    let mut file = tokio::fs::File::open(path).await?;
    let mut left = size;
    while left > 0 {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        let most = u64::try_from(CHUNK).unwrap_or(u64::MAX).min(left);
        if (&mut file).take(most).read_buf(&mut chunk).await? == 0 {
            let message = format!("{} is shorter than {size} bytes", path.display());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        left -= chunk.len() as u64;
        send(out, chunk.freeze()).await?;
    }
    send(out, padding(size)).await
}

fn header(name: &str, size: u64) -> io::Result<Bytes> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    Ok(Bytes::copy_from_slice(header.as_bytes()))
}

fn padding(size: u64) -> Bytes {
    let over = usize::try_from(size % BLOCK as u64).expect("a remainder of 512 fits");
    Bytes::from_static(&[0; BLOCK]).slice(..(BLOCK - over) % BLOCK)
}

async fn send(out: &mpsc::Sender<Chunk>, bytes: Bytes) -> io::Result<()> {
    out.send(Ok(bytes)).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::engine::images::shipped::Layer;

    fn layer(file: File) -> Layer {
        Layer { file, diff_id: format!("sha256:{}", file.digest) }
    }

    async fn written(archive: Archive) -> (io::Result<()>, Vec<Chunk>) {
        let (out, mut chunks) = mpsc::channel(CHUNKS);
        let writing = tokio::spawn(archive.write("n:t".to_owned(), out));
        let mut all = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            all.push(chunk);
        }
        (writing.await.unwrap(), all)
    }

    #[tokio::test]
    async fn an_archive_holds_the_manifest_the_configuration_and_the_layers_that_are_wanted_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = |n: u8, size: usize| {
            let path = directory.path().join(n.to_string());
            std::fs::write(&path, vec![n; size]).unwrap();
            (File { digest: Digest([n; 32]), size: size as u64 }, path)
        };
        let all = [file(0, 512), file(1, 5), file(2, CHUNK * 2 + 7)];
        let [config, low, high] = [all[0].0, all[1].0, all[2].0];
        let contents = Contents { config, layers: [low, high, high].map(layer).into() };
        assert_eq!(files(&contents, 0), [config, low, high]);
        assert_eq!(files(&contents, 1), [config, high]);

        let archive = Archive::new(contents, vec![all[0].clone(), all[2].clone()]);
        let (result, chunks) = written(archive).await;
        result.unwrap();
        let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.unwrap().to_vec()).collect();
        let mut entries = Vec::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            entries.push((entry.path().unwrap().display().to_string(), content));
        }
        let names: Vec<_> = entries.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["manifest.json", &name(config.digest), &name(high.digest)]);
        assert_eq!(entries[2].1, vec![2; CHUNK * 2 + 7]);
        let manifest: serde_json::Value = serde_json::from_slice(&entries[0].1).unwrap();
        assert_eq!(manifest[0]["Layers"], json!([low, high, high].map(|file| name(file.digest))));
        assert_eq!(manifest[0]["RepoTags"], json!(["n:t"]));
    }

    #[tokio::test]
    async fn a_file_that_is_too_short_breaks_the_stream_instead_of_ending_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("short");
        std::fs::write(&path, "x").unwrap();
        let config = File { digest: Digest([0; 32]), size: 2 };
        let archive = Archive::new(Contents { config, layers: Vec::new() }, vec![(config, path)]);
        let (result, chunks) = written(archive).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(chunks.last().unwrap().is_err());
    }
}

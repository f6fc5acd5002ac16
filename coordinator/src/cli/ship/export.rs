//! An image out of the engine, taken apart into contents: what `docker save` writes, unpacked as it
//! comes. Layers come out the same each time, so that a second export of changed images sends only the
//! layers that changed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::{Component, Path, PathBuf};

use bollard::Docker;
use bytes::{Buf as _, Bytes};
use convoke_model::Digest;
use convoke_tree::{Entry, Kind, Manifest};
use indicatif::ProgressBar;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;

use super::blob::{Origin, Tree};
use super::engine;
use crate::cli::failure::{Failure, exit};

/// Messages of the engine's (up to 64 KiB each) read ahead of the disk.
const AHEAD: usize = 16;
/// Bytes copied at a time.
const CHUNK: usize = 256 << 10;
/// What every saved image has.
const LIST: &str = "manifest.json";

/// Takes `image` apart; contents that `keep` does not want are hashed and dropped, the others lie in
/// `spool` afterwards.
pub(super) async fn unpack(
    engine: &Docker,
    image: &str,
    spool: &Path,
    keep: impl Fn(&Digest) -> bool + Send + 'static,
    bar: &ProgressBar,
) -> Result<Tree, Failure> {
    let (sender, parts) = mpsc::channel(AHEAD);
    let spool = spool.to_owned();
    let unpacking = tokio::task::spawn_blocking(move || {
        Unpacking { spool, keep, entries: BTreeMap::new(), origins: BTreeMap::new() }
            .run(Parts { parts, part: Bytes::new() })
    });
    let mut exported = std::pin::pin!(engine.export_image(image));
    let mut broken = None;
    while let Some(part) = exported.next().await {
        match part {
            Ok(part) => {
                bar.inc(part.len() as u64);
                if sender.send(part).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                broken = Some(engine::failed(&format!("export {image}"), &error));
                break;
            }
        }
    }
    drop(sender);
    let unpacked = unpacking.await.map_err(|e| Failure::new(exit::FAILED, "CRASHED", e.to_string()))?;
    match (broken, unpacked) {
        (Some(failure), _) => Err(failure),
        (None, Ok(tree)) => Ok(tree),
        (None, Err(error)) => {
            let message = format!("image {image} cannot be taken apart: {error}");
            Err(Failure::new(exit::FAILED, "IMAGE", message)
                .hint("TMPDIR names where there is room for it; --no-ship-image leaves it to the nodes"))
        }
    }
}

/// The engine's messages as one stream of bytes.
struct Parts {
    parts: mpsc::Receiver<Bytes>,
    part: Bytes,
}

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.part = part,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.part.len());
        self.part.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

struct Unpacking<K> {
    spool: PathBuf,
    keep: K,
    /// By the parts of their paths, which is the order of manifests.
    entries: BTreeMap<Vec<String>, Entry>,
    origins: BTreeMap<Digest, Origin>,
}

impl<K: Fn(&Digest) -> bool> Unpacking<K> {
    fn run(mut self, stream: impl Read) -> io::Result<Tree> {
        let mut archive = tar::Archive::new(stream);
        for entry in archive.entries()? {
            self.entry(entry?)?;
        }
        if !self.entries.contains_key(&vec![LIST.to_owned()]) {
            return Err(io::Error::other(format!("what the engine sent has no {LIST}")));
        }
        let manifest = Manifest { entries: self.entries.into_values().collect() };
        // What others would refuse is found here.
        Manifest::decode(&manifest.encode()).map_err(io::Error::other)?;
        Ok(Tree::new(manifest, self.origins))
    }

    fn entry(&mut self, mut entry: tar::Entry<'_, impl Read>) -> io::Result<()> {
        let parts = parts(&entry.path()?)?;
        if parts.is_empty() {
            return Ok(());
        }
        for n in 1..parts.len() {
            self.put(parts[..n].to_vec(), 0o755, Kind::Dir);
        }
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            self.put(parts, 0o755, Kind::Dir);
        } else if kind.is_file() {
            let (digest, size) = self.content(&mut entry)?;
            self.put(parts, 0o644, Kind::File { size, digest });
        } else if kind.is_symlink() {
            let target = entry.link_name()?.unwrap_or_default();
            let target = target.to_str().ok_or_else(|| io::Error::other("a link's target is not UTF-8"))?;
            self.put(parts, 0o777, Kind::Symlink { target: target.to_owned() });
        } else {
            return Err(io::Error::other(format!("{} is neither file, directory nor link", parts.join("/"))));
        }
        Ok(())
    }

    fn put(&mut self, parts: Vec<String>, mode: u32, kind: Kind) {
        let path = parts.join("/");
        self.entries.insert(parts, Entry { path, mode, kind });
    }

    fn content(&mut self, from: &mut impl Read) -> io::Result<(Digest, u64)> {
        let path = self.spool.join(self.entries.len().to_string());
        let mut file = File::create_new(&path)?;
        let (mut hash, mut size) = (Sha256::new(), 0);
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = from.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            file.write_all(&buffer[..n])?;
            size += n as u64;
        }
        let digest = Digest(hash.finalize().into());
        if (self.keep)(&digest) && !self.origins.contains_key(&digest) {
            self.origins.insert(digest, Origin::Spooled(path));
        } else {
            std::fs::remove_file(&path)?;
        }
        Ok((digest, size))
    }
}

fn parts(path: &Path) -> io::Result<Vec<String>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(
                part.to_str()
                    .map(ToOwned::to_owned)
                    .ok_or_else(|| io::Error::other(format!("the name {} is not UTF-8", path.display())))?,
            ),
            _ => return Err(io::Error::other(format!("the path {} leads elsewhere", path.display()))),
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &str)], links: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            builder.append_data(&mut header, path, content.as_bytes()).unwrap();
        }
        for (path, target) in links {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, path, target).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(archive: &[u8], spool: &Path, keep: impl Fn(&Digest) -> bool) -> io::Result<Tree> {
        let unpacking =
            Unpacking { spool: spool.to_owned(), keep, entries: BTreeMap::new(), origins: BTreeMap::new() };
        unpacking.run(archive)
    }

    #[test]
    fn an_image_is_its_files_with_times_and_modes_left_out() {
        let spool = tempfile::tempdir().unwrap();
        let saved = archive(
            &[("b/layer.tar", "layer"), ("manifest.json", "[]"), ("a/layer.tar", "base")],
            &[("c/layer.tar", "../a/layer.tar")],
        );
        let tree = unpacked(&saved, spool.path(), |_| true).unwrap();
        let paths: Vec<_> = tree.manifest.entries.iter().map(|e| (e.path.as_str(), e.mode)).collect();
        let expected = [
            ("a", 0o755),
            ("a/layer.tar", 0o644),
            ("b", 0o755),
            ("b/layer.tar", 0o644),
            ("c", 0o755),
            ("c/layer.tar", 0o777),
            ("manifest.json", 0o644),
        ];
        assert_eq!(paths, expected);
        assert_eq!(tree.origins.len(), 3);
        for (digest, origin) in &tree.origins {
            let content = io::read_to_string(origin.open().unwrap().unwrap()).unwrap();
            assert_eq!(Digest(Sha256::digest(content).into()), *digest);
        }
    }

    #[test]
    fn what_the_coordinator_has_is_not_kept_here() {
        let spool = tempfile::tempdir().unwrap();
        let saved = archive(&[("a/layer.tar", "base"), ("b/layer.tar", "new"), ("manifest.json", "[]")], &[]);
        let base = Digest(Sha256::digest("base").into());
        let tree = unpacked(&saved, spool.path(), move |digest| *digest != base).unwrap();
        assert_eq!(tree.reference.files, 3);
        assert_eq!(tree.origins.len(), 2);
        assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_stream_that_breaks_off_or_leads_elsewhere_is_refused() {
        let saved = archive(&[("a/layer.tar", &"x".repeat(2000)), ("manifest.json", "[]")], &[]);
        let spool = tempfile::tempdir().unwrap();
        assert!(unpacked(&saved[..1500], spool.path(), |_| true).is_err());
        let spool = tempfile::tempdir().unwrap();
        let error = unpacked(&archive(&[("x", "")], &[]), spool.path(), |_| true).unwrap_err();
        assert!(error.to_string().contains("manifest.json"), "{error}");
        let spool = tempfile::tempdir().unwrap();
        let saved = archive(&[("manifest.json", "[]")], &[("x", "../../etc")]);
        assert!(unpacked(&saved, spool.path(), |_| true).is_err());
    }
}

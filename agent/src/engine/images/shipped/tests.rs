use std::collections::BTreeMap;

use futures::FutureExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::*;

/// A tree of `files`, and links, whose blobs lie in a directory.
struct Tree {
    entries: Vec<Entry>,
    blobs: tempfile::TempDir,
}

impl Tree {
    fn of(files: &[(&str, &[u8])], links: &[(&str, &str)]) -> Self {
        let blobs = tempfile::tempdir().unwrap();
        let mut entries: BTreeMap<&str, Kind> = BTreeMap::new();
        for (path, content) in files {
            let digest = Digest(Sha256::digest(content).into());
            std::fs::write(blobs.path().join(digest.to_string()), content).unwrap();
            entries.insert(path, Kind::File { size: content.len() as u64, digest });
        }
        entries.extend(
            links.iter().map(|(path, target)| (*path, Kind::Symlink { target: (*target).to_owned() })),
        );
        let entries =
            entries.into_iter().map(|(path, kind)| Entry { path: path.to_owned(), mode: 0o644, kind });
        Self { entries: entries.collect(), blobs }
    }

    async fn contents(&self) -> Result<Contents, ImageError> {
        let directory = self.blobs.path().to_owned();
        let blob: BlobPath =
            Arc::new(move |digest| std::future::ready(Ok(directory.join(digest.to_string()))).boxed());
        let manifest = Arc::new(Manifest { entries: self.entries.clone() });
        Shipped { manifest, blob }.contents().await
    }
}

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn config(diff_ids: &[&str]) -> Vec<u8> {
    text(&json!({"architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}}))
}

fn saved(layers: &[&str]) -> Vec<u8> {
    text(&json!([{"Config": "c.json", "RepoTags": ["x:1"], "Layers": layers}]))
}

#[tokio::test]
async fn a_saved_image_is_read_with_its_linked_layers() {
    let config = config(&["sha256:a", "sha256:b", "sha256:a"]);
    let manifest = saved(&["1/layer.tar", "2/layer.tar", "3/layer.tar"]);
    let files: &[(&str, &[u8])] = &[
        ("manifest.json", &manifest),
        ("c.json", &config),
        ("1/layer.tar", b"one"),
        ("2/layer.tar", b"second"),
    ];
    let contents = Tree::of(files, &[("3/layer.tar", "../1/layer.tar")]).contents().await.unwrap();
    assert_eq!(contents.id(), format!("sha256:{}", hex::encode(Sha256::digest(&config))));
    let layers: Vec<_> = contents.layers.iter().map(|l| (l.diff_id.as_str(), l.file.size)).collect();
    assert_eq!(layers, [("sha256:a", 3), ("sha256:b", 6), ("sha256:a", 3)]);
}

#[tokio::test]
async fn what_is_no_saved_image_is_refused_by_what_is_wrong() {
    let good = config(&["sha256:a"]);
    let two = text(&json!([{"Config": "c.json", "Layers": []}, {"Config": "c.json", "Layers": []}]));
    let ring = saved(&["l"]);
    let lost = saved(&["missing"]);
    let more = saved(&["c.json", "c.json"]);
    for (manifest, links, problem) in [
        (&two, &[][..], "holds 2 images"),
        (&lost, &[], "no file missing"),
        (&more, &[], "has 2 layers, and its configuration names 1"),
        (&ring, &[("l", "m"), ("m", "l")], "lead nowhere"),
        (&b"[{".to_vec(), &[], "EOF"),
    ] {
        let error =
            Tree::of(&[("manifest.json", manifest), ("c.json", &good)], links).contents().await.unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
    }
    let error = Tree::of(&[("c.json", &good)], &[]).contents().await.unwrap_err();
    assert!(error.to_string().contains("no file manifest.json"), "{error}");
}

//! What a story plays with: the engine, images of its own, a place for files; and the clearing up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{
    PushImageOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptions, TagImageOptionsBuilder,
};
use convoke_agent::engine::images::{
    BlobPath, Credentials, Image, Images, ImagesConfig, Policy, Shipped, Wanted,
};
use convoke_agent::engine::{DEFAULT_SOCKET, Engine};
use convoke_model::Digest;
use convoke_tree::{Entry, Kind, Manifest};
use futures::{FutureExt as _, StreamExt as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// Of every image that is made here.
pub const LIBRARY_PATH: &str = "/opt/lib";

pub struct Scene {
    pub engine: Engine,
    pub images: Images,
    /// Of whoever puts images into registries.
    elsewhere: Images,
    pub directory: tempfile::TempDir,
    /// Begins every name that the story makes on the engine.
    pub unique: String,
    /// To be removed at the end.
    references: Vec<String>,
    containers: Vec<String>,
}

impl Scene {
    pub async fn new() -> Self {
        let engine = Engine::connect(Path::new(DEFAULT_SOCKET)).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let data_root = engine.info().await.unwrap().data_root;
        let images = Images::new(engine.clone(), config(directory.path(), &data_root, 0));
        let other = config(&directory.path().join("elsewhere"), &data_root, 0);
        let elsewhere = Images::new(engine.clone(), other);
        let unique = format!("convoke-test-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        Self { engine, images, elsewhere, directory, unique, references: Vec::new(), containers: Vec::new() }
    }

    pub fn docker(&self) -> &Docker {
        self.engine.docker()
    }

    /// An image of its own, with random layers of these sizes.
    pub fn saved(&self, layers: &[usize]) -> Saved {
        let layers = layers.iter().enumerate().map(|(n, size)| layer(&[(&n.to_string(), &noise(*size))]));
        Saved::new(self.directory.path(), layers.collect(), &self.unique)
    }

    /// An image that has a shell.
    pub fn shell(&self) -> Saved {
        self.programs(&[])
    }

    /// An image that has a shell, and what these programs of the host are linked with.
    pub fn programs(&self, programs: &[&Path]) -> Saved {
        Saved::new(self.directory.path(), vec![shell(programs)], &self.unique)
    }

    pub async fn load(&mut self, saved: &Saved) -> Image {
        self.will_clear(saved.tag());
        self.images.ensure(Wanted::Shipped(saved.shipped(&Fetched::default()))).done().await.unwrap()
    }

    /// Puts an image into a registry as `name:tag`, off the engine, and returns its digest there.
    pub async fn push(
        &mut self,
        saved: &Saved,
        name: &str,
        tag: &str,
        login: Option<(&str, &str)>,
    ) -> String {
        let wanted = Wanted::Shipped(saved.shipped(&Fetched::default()));
        self.will_clear(saved.tag());
        self.will_clear(format!("{name}:{tag}"));
        let image = self.elsewhere.ensure(wanted).done().await.unwrap();
        let docker = self.docker();
        let options = TagImageOptionsBuilder::default().repo(name).tag(tag).build();
        docker.tag_image(&image.id, Some(options)).await.unwrap();
        let credentials = login.map(|(user, password)| bollard::auth::DockerCredentials {
            username: Some(user.to_owned()),
            password: Some(password.to_owned()),
            ..Default::default()
        });
        let options = PushImageOptionsBuilder::default().tag(tag).build();
        let mut messages = docker.push_image(name, Some(options), credentials);
        while let Some(message) = messages.next().await {
            message.unwrap();
        }
        let inspected = docker.inspect_image(&image.id).await.unwrap();
        let digests = inspected.repo_digests.unwrap();
        let digest = digests.iter().find_map(|d| d.strip_prefix(&format!("{name}@"))).unwrap().to_owned();
        for reference in [format!("{name}:{tag}"), format!("{name}@{digest}"), saved.tag()] {
            self.remove_image(&reference).await;
        }
        assert!(docker.inspect_image(&image.id).await.is_err(), "{} is still there", image.id);
        self.will_clear(format!("{name}@{digest}"));
        digest
    }

    pub fn will_clear(&mut self, reference: String) {
        self.references.push(reference);
    }

    pub fn will_remove(&mut self, container: String) {
        self.containers.push(container);
    }

    pub async fn remove_image(&self, reference: &str) {
        let _ = self.docker().remove_image(reference, None::<RemoveImageOptions>, None).await;
    }

    pub async fn clear_containers(&self) {
        for container in &self.containers {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            let _ = self.docker().remove_container(container, Some(options)).await;
        }
    }

    pub async fn clear(&mut self) {
        self.clear_containers().await;
        for reference in &self.references {
            self.remove_image(reference).await;
        }
    }
}

/// How images are kept, with a book in `directory`.
pub fn config(directory: &Path, data_root: &Path, keep_free: u64) -> ImagesConfig {
    ImagesConfig {
        book: directory.join("images.json"),
        data_root: data_root.to_owned(),
        policy: Policy { unused_for: Duration::from_secs(14 * 86_400), keep_free },
        credentials: Credentials::in_file(directory.join("docker-config.json")),
    }
}

/// Digests of the blobs that were asked for.
pub type Fetched = Arc<Mutex<Vec<Digest>>>;

/// An image as `docker save` unpacks, its files in a directory by their digests.
#[derive(Clone)]
pub struct Saved {
    pub manifest: Manifest,
    pub config: Digest,
    pub layers: Vec<Digest>,
    pub blobs: PathBuf,
}

impl Saved {
    /// `label` makes images with equal layers different.
    pub fn new(directory: &Path, layers: Vec<Vec<u8>>, label: &str) -> Self {
        let diff_ids: Vec<String> =
            layers.iter().map(|l| format!("sha256:{}", hex::encode(Sha256::digest(l)))).collect();
        Self::with_diff_ids(directory, layers, &diff_ids, label)
    }

    pub fn with_diff_ids(directory: &Path, layers: Vec<Vec<u8>>, diff_ids: &[String], label: &str) -> Self {
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": {
                "Env": ["PATH=/bin", format!("LD_LIBRARY_PATH={LIBRARY_PATH}")],
                "Cmd": ["/bin/sh"],
                "Labels": {"unique": label},
            },
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let names: Vec<String> = (0..layers.len()).map(|n| format!("layer-{n}.tar")).collect();
        let manifest = json!([{"Config": "config.json", "RepoTags": null, "Layers": names}]);
        let mut files = BTreeMap::from([
            ("config.json".to_owned(), config.to_string().into_bytes()),
            ("manifest.json".to_owned(), manifest.to_string().into_bytes()),
        ]);
        files.extend(names.into_iter().zip(layers));
        Self::of_files(directory, files)
    }

    /// From all files of a saved image.
    pub fn of_files(directory: &Path, files: BTreeMap<String, Vec<u8>>) -> Self {
        let blobs = directory.join("blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        let entry = |(path, content): (&String, &Vec<u8>)| {
            let digest = Digest(Sha256::digest(content).into());
            std::fs::write(blobs.join(digest.to_string()), content).unwrap();
            Entry { path: path.clone(), mode: 0o644, kind: Kind::File { size: content.len() as u64, digest } }
        };
        let entries: Vec<Entry> = files.iter().map(entry).collect();
        let digest = |path: &str| match entries.iter().find(|e| e.path == path).map(|e| &e.kind) {
            Some(Kind::File { digest, .. }) => *digest,
            other => panic!("{path} is {other:?}"),
        };
        let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        let layers = manifest[0]["Layers"].as_array().unwrap().iter();
        let config = digest(manifest[0]["Config"].as_str().unwrap());
        let layers = layers.map(|l| digest(l.as_str().unwrap())).collect();
        Self { config, layers, manifest: Manifest { entries }, blobs }
    }

    /// The tag under which it is loaded.
    pub fn tag(&self) -> String {
        format!("convoke-shipped:{}", self.config)
    }

    pub fn id(&self) -> String {
        format!("sha256:{}", self.config)
    }

    /// To be loaded; what is asked for is noted.
    pub fn shipped(&self, fetched: &Fetched) -> Shipped {
        let (blobs, fetched) = (self.blobs.clone(), fetched.clone());
        let blob: BlobPath = Arc::new(move |digest| {
            fetched.lock().unwrap().push(digest);
            std::future::ready(Ok(blobs.join(digest.to_string()))).boxed()
        });
        Shipped { manifest: Arc::new(self.manifest.clone()), blob }
    }
}

pub fn layer(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        archive.append_data(&mut header, path, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Bytes that no compression makes smaller.
pub fn noise(size: usize) -> Vec<u8> {
    let mut noise = Vec::with_capacity(size);
    while noise.len() < size {
        noise.extend(uuid::Uuid::new_v4().into_bytes());
    }
    noise.truncate(size);
    noise
}

/// This machine's `/bin/sh` and the libraries that it and `programs` are linked with.
fn shell(programs: &[&Path]) -> Vec<u8> {
    let mut files = BTreeMap::new();
    for program in programs.iter().copied().chain([Path::new("/bin/sh")]) {
        let ldd = Command::new("ldd").arg(program).output().unwrap();
        let text = String::from_utf8(ldd.stdout).unwrap();
        for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
            files.insert(library.trim_start_matches('/').to_owned(), std::fs::read(library).unwrap());
        }
    }
    files.insert("bin/sh".to_owned(), std::fs::read("/bin/sh").unwrap());
    layer(&files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect::<Vec<_>>())
}

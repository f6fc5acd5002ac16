//! Images: built here, pinned to what a registry has, or sent where no registry has them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bollard::models::ImageInspect;
use convoke_model::{Digest, JobSpec, TreeRef};
use convoke_tree::Manifest;
use serde_json::json as object;
use sha2::{Digest as _, Sha256};

use super::blob::Tree;
use super::engine::{self, Engine};
use super::reference::{self, Reference};
use super::tally::Tally;
use super::upload::{UploadError, missing};
use super::{Shipping, build, export, scan, sources};
use crate::cli::cache::Shelf;
use crate::cli::failure::{Failure, exit};
use crate::cli::text;

/// The image that a `build` without one makes, as Compose calls it.
pub(crate) fn name_builds(jobs: &mut [JobSpec]) {
    for job in jobs.iter_mut().filter(|job| job.container.build.is_some()) {
        let name = || format!("{}_{}", job.project, job.service).to_lowercase();
        job.image.get_or_insert_with(name);
    }
}

/// What the nodes are told of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Bits {
    /// Only its name: each node has it or pulls it.
    Name,
    /// The registry's digest.
    Digest(String),
    /// Its content.
    Content(TreeRef),
}

impl Shipping<'_> {
    /// Builds what is to be built, and says in the specs which bits each image is.
    pub(super) async fn images(&self, jobs: &mut [JobSpec]) -> Result<(), Failure> {
        let engine = Engine::connect().await;
        self.build(engine.as_ref(), jobs).await?;
        let names: BTreeSet<_> = jobs.iter().filter_map(|job| job.image.clone()).collect();
        let built: BTreeSet<_> =
            jobs.iter().filter(|j| j.container.build.is_some()).filter_map(|j| j.image.clone()).collect();
        let mut bits = BTreeMap::new();
        for name in names {
            let found = match &engine {
                Ok(engine) => self.bits(engine, &name, built.contains(&name)).await?,
                Err(why) => self.without_engine(&name, why),
            };
            bits.insert(name, found);
        }
        for job in jobs {
            match job.image.as_ref().and_then(|name| bits.get(name)) {
                Some(Bits::Digest(digest)) => job.container.image_digest = Some(digest.clone()),
                Some(Bits::Content(tree)) => job.container.image_content = Some(tree.clone()),
                Some(Bits::Name) | None => {}
            }
        }
        Ok(())
    }

    fn without_engine(&self, name: &str, why: &str) -> Bits {
        if let Some(digest) = Reference::parse(name).digest {
            return Bits::Digest(digest.to_owned());
        }
        self.screen.note(&format!("note: no Docker Engine here ({why}): each node finds {name} by its name"));
        Bits::Name
    }

    /// As Compose does: what is not there is built, `--build` builds all.
    async fn build(&self, engine: Result<&Engine, &String>, jobs: &[JobSpec]) -> Result<(), Failure> {
        let mut done = BTreeSet::new();
        for job in jobs {
            let (Some(section), Some(image)) = (&job.container.build, &job.image) else { continue };
            if !done.insert(image) {
                continue;
            }
            let engine = engine.map_err(|why| no_engine(job, why))?;
            if !self.args.build && engine.image(&reference::tagged(image)).await?.is_some() {
                self.screen.note(&format!("note: {image} is there already; --build builds it again"));
                continue;
            }
            let project = Path::new(&job.project_dir);
            let command = build::command(section, image, project, self.args.pull)
                .map_err(|problem| Failure::usage(format!("services.{}.build: {problem}", job.service)))?;
            self.screen.note(&format!("building {image} for {}", job.service));
            let what = format!("the build of {image}");
            engine::docker(&command.args, project, command.input.as_deref(), &what).await?;
        }
        Ok(())
    }

    async fn bits(&self, engine: &Engine, name: &str, built: bool) -> Result<Bits, Failure> {
        if let Some(digest) = Reference::parse(name).digest {
            return Ok(Bits::Digest(digest.to_owned()));
        }
        let tagged = reference::tagged(name);
        if self.args.pull && !built {
            let args = ["pull".to_owned(), tagged.clone()];
            engine::docker(&args, Path::new("."), None, &format!("the pull of {name}")).await?;
        }
        let Some(image) = engine.image(&tagged).await? else {
            return Ok(self.remote(engine, name, &tagged).await);
        };
        let digest = reference::own_digest(name, image.repo_digests.as_deref().unwrap_or_default());
        match digest {
            Some(digest) if !self.args.ship_image => Ok(Bits::Digest(digest)),
            None if self.args.no_ship_image => {
                self.screen.note(&format!("note: no registry has {name}: every node must have it"));
                Ok(Bits::Name)
            }
            _ => Ok(Bits::Content(self.content(engine, &tagged, &image).await?)),
        }
    }

    /// An image that is not here: all nodes are to run what the registry means by its name now.
    async fn remote(&self, engine: &Engine, name: &str, tagged: &str) -> Bits {
        match engine.registry_digest(tagged).await {
            Ok(digest) => Bits::Digest(digest),
            Err(why) => {
                self.screen.note(&format!(
                    "note: {name} is not here, and what its registry has could not be told ({why}): each node \
                     finds it by its name"
                ));
                Bits::Name
            }
        }
    }

    /// The image's content, known from an earlier time or exported, sent where it is lacking.
    async fn content(&self, engine: &Engine, name: &str, image: &ImageInspect) -> Result<TreeRef, Failure> {
        let known = Known::of(name, image);
        if let Some(manifest) = known.read() {
            let tree = Tree::new(manifest, BTreeMap::new());
            if missing(self.link, tree.digests()).await?.is_empty() {
                self.tell_image(name, &Tally::of([&tree].into_iter(), &BTreeSet::new()));
                return Ok(tree.reference);
            }
        }
        // Saved layers are what their digests in the image say, so those need not be kept here.
        let layers: BTreeSet<_> = layers(image).collect();
        let lacking = missing(self.link, layers.iter().copied()).await?;
        let spool = tempfile::Builder::new()
            .prefix("convoke-image-")
            .tempdir_in(roomy())
            .map_err(|e| Failure::file("make a directory in", &roomy(), &e))?;
        let bytes = image.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
        let sentence = format!("exporting {name} ({}), to ship what the nodes lack of it", text::size(bytes));
        self.screen.begin(&sentence);
        let bar = self.screen.bar(super::bar(&format!("exporting {name}"), bytes));
        let keep = move |digest: &Digest| !layers.contains(digest) || lacking.contains(digest);
        let tree = export::unpack(&engine.api, name, spool.path(), keep, &bar).await;
        bar.finish_and_clear();
        let tree = tree?;
        let lacking = missing(self.link, tree.digests()).await?;
        let tally = Tally::of([&tree].into_iter(), &lacking);
        self.screen.begin(&format!("shipping {name} ({})", text::size(tally.bytes)));
        match self.send(&format!("shipping {name}"), [&tree].into_iter(), &lacking).await {
            Ok(()) => {}
            Err(UploadError::Failed(failure)) => return Err(failure),
            Err(UploadError::Changed(paths)) => return Err(scan::changed(&paths)),
        }
        known.write(&tree.manifest);
        self.tell_image(name, &tally);
        Ok(tree.reference)
    }

    fn tell_image(&self, name: &str, tally: &Tally) {
        let mut value = tally.json();
        value["image"] = object!(name);
        let sentence = tally.sentence("shipped");
        self.screen.tell(
            "shipped_image",
            &value,
            &format!("image {name}, which no registry has: {sentence}"),
        );
    }

    /// What [`Shipping::images`] would do, as sentences.
    pub(super) async fn preview_images(&self, jobs: &[JobSpec]) -> Result<Vec<String>, Failure> {
        let mut said = Vec::new();
        let engine = Engine::connect().await;
        let mut seen = BTreeSet::new();
        for job in jobs.iter().filter(|job| sources::travels(job)) {
            let Some(name) = job.image.as_deref().filter(|name| seen.insert(name.to_string())) else {
                continue;
            };
            let tagged = reference::tagged(name);
            let engine = match (&engine, &job.container.build) {
                (Ok(engine), _) => engine,
                (Err(why), Some(_)) => return Err(no_engine(job, why)),
                (Err(_), None) => continue,
            };
            let image = engine.image(&tagged).await?;
            if job.container.build.is_some() && (self.args.build || image.is_none()) {
                said.push(format!("would build {name}"));
            }
            let Some(image) = image else { continue };
            let digests = image.repo_digests.as_deref().unwrap_or_default();
            let pinned = Reference::parse(name).digest.is_some()
                || (reference::own_digest(name, digests).is_some() && !self.args.ship_image);
            if pinned || self.args.no_ship_image {
                continue;
            }
            said.push(self.preview_content(&tagged, &image).await?);
        }
        Ok(said)
    }

    async fn preview_content(&self, name: &str, image: &ImageInspect) -> Result<String, Failure> {
        let lacking = match Known::of(name, image).read() {
            Some(manifest) => {
                let tree = Tree::new(manifest, BTreeMap::new());
                let lacking = missing(self.link, tree.digests()).await?;
                Tally::of([&tree].into_iter(), &lacking).sentence("would ship")
            }
            None => {
                let bytes = image.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                format!("would export and ship up to {}", text::size(bytes))
            }
        };
        Ok(format!("image {name}, which no registry has: {lacking}"))
    }
}

fn no_engine(job: &JobSpec, why: &str) -> Failure {
    let message = format!("services.{}.build needs a Docker Engine here: {why}", job.service);
    Failure::new(exit::FAILED, "NO_DOCKER", message).hint(
        "start Docker, name another engine with DOCKER_HOST, or build the image elsewhere, push it to a \
         registry and name it with `image:`",
    )
}

/// The layers by the digests of their tars.
fn layers(image: &ImageInspect) -> impl Iterator<Item = Digest> {
    let layers = image.root_fs.as_ref().and_then(|fs| fs.layers.as_deref()).unwrap_or_default();
    layers.iter().filter_map(|layer| layer.strip_prefix("sha256:")?.to_owned().try_into().ok())
}

/// Where a few gigabytes may lie for a while; `/tmp` is often memory.
fn roomy() -> PathBuf {
    let var_tmp = PathBuf::from("/var/tmp");
    match std::env::var_os("TMPDIR") {
        None if var_tmp.is_dir() => var_tmp,
        _ => std::env::temp_dir(),
    }
}

/// What an image consisted of when it was exported before, so that it need not be again.
struct Known(Option<PathBuf>);

impl Known {
    /// By the image's id, which stands for its bits, and by its name, which is part of the export.
    fn of(name: &str, image: &ImageInspect) -> Self {
        let Some(id) = &image.id else { return Self(None) };
        let key = hex::encode(Sha256::digest(format!("{id}\n{name}")));
        Self(Shelf::Images.dir().map(|dir| dir.join(format!("{key}.json"))))
    }

    fn read(&self) -> Option<Manifest> {
        Manifest::decode(&std::fs::read(self.0.as_ref()?).ok()?).ok()
    }

    /// Not being able to only means more work next time.
    fn write(&self, manifest: &Manifest) {
        let Some(path) = &self.0 else { return };
        let write = || {
            let dir = Shelf::Images.make()?;
            let mut file = tempfile::NamedTempFile::new_in(dir).ok()?;
            std::io::Write::write_all(&mut file, &manifest.encode()).ok()?;
            file.persist(path).ok()
        };
        write();
    }
}

#[cfg(test)]
mod tests {
    use convoke_model::JobName;

    use super::*;

    #[test]
    fn a_build_without_an_image_is_called_by_project_and_service() {
        let mut job = JobSpec::processes(JobName::new("train").unwrap(), vec!["x".to_owned()]);
        (job.project, job.service) = ("digits".to_owned(), "Train".to_owned());
        let plain = job.clone();
        job.container.build = Some("{}".to_owned());
        let named = JobSpec { image: Some("mine:1".to_owned()), ..job.clone() };
        let mut jobs = [plain, job, named];
        name_builds(&mut jobs);
        let images: Vec<_> = jobs.iter().map(|job| job.image.as_deref()).collect();
        assert_eq!(images, [None, Some("digits_train"), Some("mine:1")]);
    }
}

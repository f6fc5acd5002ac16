//! The images of this node's jobs: found, pulled or loaded, and cleaned away.
//!
//! [`Images::ensure`] makes an image be there: what the engine has already costs no traffic, what
//! several replicas want at once is fetched once. It ends in an [`Image`] (its id is what containers
//! are made of) or in an [`ImageError`] that names whose fault it is. Abandoned by all who wanted it, a
//! fetch stops. [`Images::gc`] removes only what was fetched here, by the references that were made
//! here: never an image that somebody else brought or tagged.

mod archive;
mod book;
mod credentials;
mod error;
mod gc;
mod load;
mod progress;
mod pull;
mod reference;
mod shipped;
mod space;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bollard::models::ImageInspect;
use convoke_model::Timestamp;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::watch;

pub use book::Policy;
pub use credentials::Credentials;
pub use error::ImageError;
pub use gc::Removed;
pub use progress::Progress;
pub use reference::{BadReference, Reference};
pub use shipped::{BlobPath, Shipped};

use self::book::Book;
use super::{Engine, EngineError};

/// An image that the engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The engine's, `sha256:…`; what a container is made of.
    pub id: String,
    /// The registry's manifest, `sha256:…`, where it came from a registry.
    pub digest: Option<String>,
    /// Bytes on disk, unpacked.
    pub size: u64,
    /// Where its programs start unless the job says otherwise; empty is `/`.
    pub working_dir: String,
    /// Whom its containers run as unless they say otherwise; empty is root.
    pub user: String,
}

/// Which image, and where from.
#[derive(Clone)]
pub enum Wanted {
    /// As Compose names it; with a digest these very bits, else what the node or the registry has under
    /// the name.
    Named { reference: String, digest: Option<String> },
    /// The submitter's own.
    Shipped(Shipped),
}

/// How images are kept.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// Where it is written down which images were fetched here.
    pub book: PathBuf,
    /// Where the engine keeps images, for the space left there.
    pub data_root: PathBuf,
    pub policy: Policy,
    pub credentials: Credentials,
}

/// The images of one engine. Cheap to clone.
#[derive(Clone)]
pub struct Images(Arc<Shelf>);

impl fmt::Debug for Images {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Images").finish_non_exhaustive()
    }
}

struct Shelf {
    engine: Engine,
    config: ImagesConfig,
    book: Book,
    /// What is being fetched, by what is wanted; forgotten with its last waiter.
    running: Mutex<HashMap<String, Running>>,
}

type Work = BoxFuture<'static, Result<Image, Arc<ImageError>>>;

struct Running {
    work: WeakShared<Work>,
    progress: watch::Receiver<Progress>,
}

/// An image on its way. Dropped by all who want it, the fetch ends.
pub struct Ensuring {
    work: Shared<Work>,
    progress: watch::Receiver<Progress>,
}

impl Ensuring {
    /// How far it is; changes several times a second at most.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    pub async fn done(self) -> Result<Image, Arc<ImageError>> {
        self.work.await
    }
}

impl Images {
    pub fn new(engine: Engine, config: ImagesConfig) -> Self {
        let book = Book::open(config.book.clone());
        Self(Arc::new(Shelf { engine, config, book, running: Mutex::default() }))
    }

    /// Begins to make the image be there, or joins those who wait for it.
    pub fn ensure(&self, wanted: Wanted) -> Ensuring {
        let key = wanted.key();
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, running| running.work.upgrade().is_some_and(|work| work.peek().is_none()));
        if let Some(Running { work, progress }) = running.get(&key)
            && let Some(work) = work.upgrade()
        {
            return Ensuring { work, progress: progress.clone() };
        }
        let (sender, progress) = watch::channel(Progress::default());
        let shelf = self.0.clone();
        let work: Work = async move { shelf.ensure(wanted, &sender).await.map_err(Arc::new) }.boxed();
        let work = work.shared();
        if let Some(weak) = work.downgrade() {
            running.insert(key, Running { work: weak, progress: progress.clone() });
        }
        Ensuring { work, progress }
    }

    /// Removes images that were fetched here and that nothing needs: those not used for long, and, with
    /// little space left, the others too. `keep` are ids.
    pub async fn gc(&self, keep: &BTreeSet<String>, now: Timestamp) -> Result<Vec<Removed>, ImageError> {
        gc::collect(&self.0, keep, now).await
    }
}

impl Shelf {
    async fn ensure(&self, wanted: Wanted, progress: &watch::Sender<Progress>) -> Result<Image, ImageError> {
        let image = match wanted {
            Wanted::Named { reference, digest } => {
                self.named(&reference, digest.as_deref(), progress).await?
            }
            Wanted::Shipped(shipped) => load::ensure(self, &shipped, progress).await?,
        };
        self.book.used(&image.id, crate::clock::now());
        Ok(image)
    }

    async fn named(
        &self,
        text: &str,
        digest: Option<&str>,
        progress: &watch::Sender<Progress>,
    ) -> Result<Image, ImageError> {
        if Reference::is_image_id(text) {
            let there = self.find(text, None).await?;
            return there.ok_or_else(|| ImageError::NoSuchId { id: text.to_owned() });
        }
        let reference = Reference::parse(text)?;
        let reference = match digest {
            Some(digest) => reference.with_digest(digest)?,
            None => reference,
        };
        if let Some(image) = self.find(&reference.exact(), Some(&reference)).await? {
            return Ok(image);
        }
        pull::pull(self, &reference, progress).await
    }

    /// The image of that name or id, if the engine has it.
    async fn find(&self, name: &str, reference: Option<&Reference>) -> Result<Option<Image>, EngineError> {
        let inspected = self.inspect(name).await?;
        Ok(inspected.map(|image| described(&image, reference)))
    }

    async fn inspect(&self, name: &str) -> Result<Option<ImageInspect>, EngineError> {
        let request = self.engine.docker().inspect_image(name);
        match self.engine.prompt("does not tell of its images", request).await {
            Ok(image) => Ok(Some(image)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn described(image: &ImageInspect, reference: Option<&Reference>) -> Image {
    let digests = image.repo_digests.iter().flatten();
    let digest = reference.and_then(|reference| {
        digests.filter_map(|text| text.split_once('@')).find(|(name, _)| reference.is_named(name))
    });
    let config = image.config.as_ref();
    Image {
        id: image.id.clone().unwrap_or_default(),
        digest: digest.map(|(_, digest)| digest.to_owned()),
        size: image.size.and_then(|size| size.try_into().ok()).unwrap_or_default(),
        working_dir: config.and_then(|c| c.working_dir.clone()).unwrap_or_default(),
        user: config.and_then(|c| c.user.clone()).unwrap_or_default(),
    }
}

impl Wanted {
    fn key(&self) -> String {
        match self {
            Self::Named { reference, digest } => {
                format!("{reference} {}", digest.as_deref().unwrap_or_default())
            }
            Self::Shipped(shipped) => format!("tree {}", shipped.manifest.reference().digest),
        }
    }
}

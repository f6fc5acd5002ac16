//! A replica's image: had from the engine, a registry or the submitter, with its progress told.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use convoke_model::{DesiredReplica, Digest, JobSpec, Progress, TreeRef};
use futures::FutureExt as _;
use tokio::sync::{OnceCell, watch};
use tokio::time::interval;
use tracing::{info, warn};

use super::prepare::Refusal;
use crate::engine::images::{self, Ensuring, Image, Shipped, Wanted};
use crate::files::cache::{Cache, Tree};
use crate::host::Host;
use crate::ledger;
use crate::runtime::DockerRuntime;
use crate::runtime::docker::Reached;

/// Every report of progress is a write of the coordinator's: as often as a person looks.
const TELL: Duration = Duration::from_secs(1);

/// How often images that nobody needs are looked for.
const TIDY: Duration = Duration::from_secs(3600);

/// Makes the job's image be on this node's engine.
pub(super) async fn ensure(
    host: &Host,
    desired: &DesiredReplica,
    reached: &Reached,
    name: &str,
) -> Result<Image, Refusal> {
    let (wanted, what) = wanted(host, &desired.spec, name).await?;
    let ensuring = reached.images.ensure(wanted);
    let told = tell(host, desired, ensuring.progress(), what);
    let done = Ensuring::done(ensuring);
    tokio::select! {
        image = done => image.map_err(|error| {
            let message = format!("image {name} cannot be had: {}", super::with_sources(&*error));
            if error.is_retryable() { Refusal::for_now(message) } else { Refusal::for_good(message) }
        }),
        never = told => match never {},
    }
}

/// Removes images that were fetched for jobs and that none needs, for as long as it is polled.
pub async fn keep_tidy(host: &Host) {
    let mut ticks = interval(TIDY);
    loop {
        ticks.tick().await;
        let Some(Ok(reached)) = host.docker.as_ref().map(DockerRuntime::reached) else { continue };
        // An image of a record that cannot be read might be removed; so none is then.
        let Ok((records, broken)) = ledger::records(&host.home) else { continue };
        if !broken.is_empty() {
            continue;
        }
        let keep: BTreeSet<String> = records.into_iter().filter_map(|r| r.inside).map(|i| i.image).collect();
        match reached.images.gc(&keep, crate::clock::now()).await {
            Ok(removed) => removed.iter().for_each(|image| info!(?image, "an unused image is removed")),
            Err(error) => warn!("unused images cannot be removed: {error}"),
        }
    }
}

async fn wanted(host: &Host, spec: &JobSpec, name: &str) -> Result<(Wanted, String), Refusal> {
    let options = &spec.container;
    match &options.image_content {
        Some(tree) => Ok((Wanted::Shipped(shipped(host, tree).await?), format!("loads {name}"))),
        None => {
            let wanted = Wanted::Named { reference: name.to_owned(), digest: options.image_digest.clone() };
            Ok((wanted, format!("pulls {name}")))
        }
    }
}

/// The tree's files are fetched when the engine lacks the first of them, and kept as long as they may be
/// read.
async fn shipped(host: &Host, tree: &TreeRef) -> Result<Shipped, Refusal> {
    let cache = host.files.cache().clone();
    let manifest = cache.manifest(tree).await.map_err(|e| {
        Refusal::for_now(format!("what the shipped image consists of cannot be fetched: {e}"))
    })?;
    let (tree, held) = (tree.clone(), Arc::new(OnceCell::<Tree>::new()));
    let blob = move |digest: Digest| {
        let (cache, tree, held) = (cache.clone(), tree.clone(), held.clone());
        async move {
            held.get_or_try_init(|| fetch(&cache, &tree)).await?;
            Ok(cache.path(digest))
        }
        .boxed()
    };
    Ok(Shipped { manifest: Arc::new(manifest), blob: Arc::new(blob) })
}

async fn fetch(cache: &Cache, tree: &TreeRef) -> io::Result<Tree> {
    cache.fetch(tree, &|_, _| {}).await.map_err(io::Error::other)
}

/// Tells the replica's progress for as long as it is polled.
async fn tell(
    host: &Host,
    desired: &DesiredReplica,
    progress: watch::Receiver<images::Progress>,
    what: String,
) -> std::convert::Infallible {
    let step = host.progresses.begin(&desired.key());
    let mut ticks = interval(TELL);
    loop {
        ticks.tick().await;
        let images::Progress { done, total, .. } = *progress.borrow();
        // What is there already is over before anything is worth telling.
        if total > 0 {
            step.tell(Progress { what: what.clone(), done, total });
        }
    }
}

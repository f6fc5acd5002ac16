//! Pulling from a registry.

use std::time::Duration;

use bollard::query_parameters::{CreateImageOptionsBuilder, TagImageOptionsBuilder};
use futures::StreamExt as _;
use tokio::sync::watch;
use tracing::{info, warn};

use super::error::of_pull;
use super::progress::Layers;
use super::space::Space;
use super::{Image, ImageError, Progress, Reference, Shelf, described};
use crate::clock::now;
use crate::engine::EngineError;

/// The engine reports several times a second while bytes come in or layers unpack. Between the two it
/// may be silent while it writes out a layer of some 10 GB.
pub(super) const STALL: Duration = Duration::from_secs(300);
/// Compressed layers lie on disk beside what is unpacked of them, which is two to three times as much.
const ON_DISK: u64 = 3;

/// Pulls what `reference` names and writes down that it was fetched here.
pub(super) async fn pull(
    shelf: &Shelf,
    reference: &Reference,
    progress: &watch::Sender<Progress>,
) -> Result<Image, ImageError> {
    let what = reference.to_string();
    let config = &shelf.config;
    let space = Space::look(config);
    space.fits(0, &what)?;
    let login = config.credentials.login(reference).await;
    info!(image = what, "pulling");
    let options = CreateImageOptionsBuilder::default().from_image(&reference.exact()).build();
    // Silence is bounded below, before the answer begins as well.
    let docker = shelf.engine.patient();
    let mut messages = Box::pin(docker.create_image(Some(options), None, login.credentials.clone()));
    let mut layers = Layers::default();
    loop {
        let message = tokio::time::timeout(STALL, messages.next()).await;
        match message.map_err(|_| ImageError::Stalled { what: what.clone(), seconds: STALL.as_secs() })? {
            None => break,
            Some(Err(error)) => {
                let error = shelf.engine.error("does not pull it", error);
                return Err(of_pull(error, reference, &login.describe(), config.data_root.clone()));
            }
            Some(Ok(message)) => layers.update(&message),
        }
        let now = layers.progress();
        report(progress, now);
        space.fits(now.total.saturating_mul(ON_DISK), &what)?;
    }
    finish(shelf, reference).await
}

pub(super) fn report(progress: &watch::Sender<Progress>, now: Progress) {
    progress.send_if_modified(|known| std::mem::replace(known, now) != now);
}

async fn finish(shelf: &Shelf, reference: &Reference) -> Result<Image, ImageError> {
    let exact = reference.exact();
    let inspected = shelf.inspect(&exact).await?;
    let inspected = inspected.ok_or_else(|| ImageError::NotFound {
        reference: reference.to_string(),
        registry: reference.registry().to_owned(),
    })?;
    let image = described(&inspected, Some(reference));
    let mut references = vec![exact];
    // A tag keeps the image from `docker image prune`. One that means another image here is left alone.
    let tagged = reference.tagged();
    if reference.digest().is_some() && shelf.inspect(&tagged).await?.is_none() {
        match tag(shelf, &image.id, reference.name(), reference.tag()).await {
            Ok(()) => references.push(tagged),
            Err(error) => warn!(image = tagged, "the image keeps no tag: {error}"),
        }
    }
    // Of a tag that was pulled the engine remembers the digest as well.
    if reference.digest().is_none()
        && let Some(digest) = &image.digest
    {
        references.push(format!("{}@{digest}", reference.name()));
    }
    info!(image = %reference, id = image.id, "pulled");
    shelf.book.fetched(&image.id, references, now());
    Ok(image)
}

pub(super) async fn tag(shelf: &Shelf, id: &str, name: &str, tag: &str) -> Result<(), EngineError> {
    let options = TagImageOptionsBuilder::default().repo(name).tag(tag).build();
    let tagging = shelf.engine.docker().tag_image(id, Some(options));
    shelf.engine.prompt("does not tag it", tagging).await
}

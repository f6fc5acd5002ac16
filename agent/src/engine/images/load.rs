//! Loading an image that came with the job.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bollard::query_parameters::{ImportImageOptions, ListImagesOptionsBuilder};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use super::archive::Archive;
use super::progress::count;
use super::pull::{STALL, report};
use super::shipped::{Contents, Shipped};
use super::space::Space;
use super::{Image, ImageError, Progress, Shelf, archive, described};
use crate::clock::now;
use crate::engine::EngineError;

/// Shipped images get a tag of their own, which the user's and other jobs' names cannot collide with.
const NAME: &str = "convoke-shipped";
/// The engine keeps the archive beside what it unpacks of it.
const ON_DISK: u64 = 2;
/// Images that are looked at for layers in common; a node has some dozens.
const MAX_LOOKED_AT: usize = 500;

/// Makes the shipped image be there.
pub(super) async fn ensure(
    shelf: &Shelf,
    shipped: &Shipped,
    progress: &watch::Sender<Progress>,
) -> Result<Image, ImageError> {
    let contents = shipped.contents().await?;
    if let Some(image) = find(shelf, &contents).await? {
        return Ok(image);
    }
    let common = layers_in_common(shelf, &contents).await?;
    let loaded = match load(shelf, shipped, &contents, common, progress).await {
        // An engine that wants even what it has; or the layers went away in between.
        Err(ImageError::Engine(EngineError::Refused { message, .. })) if common > 0 => {
            warn!(message, "the engine does not load an image without the layers that it has; sending all");
            load(shelf, shipped, &contents, 0, progress).await
        }
        loaded => loaded,
    };
    loaded?;
    let image = find(shelf, &contents)
        .await?
        .ok_or_else(|| ImageError::WrongImage { wanted: contents.id(), found: "nothing".to_owned() })?;
    info!(id = image.id, layers = contents.layers.len(), common, "loaded the job's image");
    shelf.book.fetched(&image.id, vec![tag(&contents)], now());
    Ok(image)
}

fn tag(contents: &Contents) -> String {
    format!("{NAME}:{}", contents.config.digest)
}

/// By its id; or, on an engine that names images otherwise, by our tag and its layers.
async fn find(shelf: &Shelf, contents: &Contents) -> Result<Option<Image>, ImageError> {
    let id = contents.id();
    if let Some(image) = shelf.find(&id, None).await? {
        return Ok(Some(image));
    }
    let Some(tagged) = shelf.inspect(&tag(contents)).await? else { return Ok(None) };
    let layers = tagged.root_fs.as_ref().and_then(|root| root.layers.as_ref());
    if layers.into_iter().flatten().eq(contents.layers.iter().map(|layer| &layer.diff_id)) {
        return Ok(Some(described(&tagged, None)));
    }
    Err(ImageError::WrongImage { wanted: id, found: tagged.id.unwrap_or_default() })
}

/// How many of the image's layers, from the lowest up, the engine has below some other image.
async fn layers_in_common(shelf: &Shelf, contents: &Contents) -> Result<usize, EngineError> {
    let options = ListImagesOptionsBuilder::default().all(false).build();
    let listing = shelf.engine.docker().list_images(Some(options));
    let images = shelf.engine.prompt("does not list its images", listing).await?;
    let mut most = 0;
    for image in images.iter().take(MAX_LOOKED_AT) {
        let Some(image) = shelf.inspect(&image.id).await? else { continue };
        let theirs = image.root_fs.and_then(|root| root.layers).unwrap_or_default();
        let ours = contents.layers.iter().map(|layer| &layer.diff_id);
        most = most.max(ours.zip(&theirs).take_while(|(ours, theirs)| ours == theirs).count());
    }
    Ok(most)
}

/// Files fetched at once: one is written to disk while the next is on its way.
const FETCHES: usize = 2;
/// How often progress is told, and silence looked at.
const TICK: Duration = Duration::from_secs(1);

async fn load(
    shelf: &Shelf,
    shipped: &Shipped,
    contents: &Contents,
    skip: usize,
    progress: &watch::Sender<Progress>,
) -> Result<(), ImageError> {
    let what = format!("the job's image {}", contents.id());
    let config = &shelf.config;
    let files = archive::files(contents, skip);
    let size: u64 = files.iter().map(|file| file.size).sum();
    Space::look(config).fits(size.saturating_mul(ON_DISK), &what)?;
    let fetching = futures::stream::iter(files).map(|file| {
        let path = (shipped.blob)(file.digest);
        async move { Ok((file, path.await?)) }
    });
    let files = fetching.buffered(FETCHES).try_collect().await;
    let archive = Archive::new(contents.clone(), files.map_err(|source| ImageError::Blob { source })?);
    let whole =
        Progress { layers_done: count(skip), layers: count(contents.layers.len()), total: size, done: 0 };
    match send(shelf, archive, tag(contents), whole, progress).await {
        Err(ImageError::Engine(EngineError::Refused { message, .. }))
            if message.contains("no space left") =>
        {
            Err(ImageError::DiskFull { what, path: config.data_root.clone(), problem: message })
        }
        sent => sent,
    }
}

/// Sends the archive and waits until the engine has made an image of it.
async fn send(
    shelf: &Shelf,
    archive: Archive,
    tag: String,
    whole: Progress,
    progress: &watch::Sender<Progress>,
) -> Result<(), ImageError> {
    let (out, chunks) = mpsc::channel(archive::CHUNKS);
    // Ends with this function.
    let mut writing = JoinSet::new();
    writing.spawn(archive.write(tag, out));
    let taken = Arc::new(AtomicU64::new(0));
    let counter = taken.clone();
    let body = ReceiverStream::new(chunks).inspect_ok(move |chunk: &Bytes| {
        counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
    });
    let docker = shelf.engine.patient();
    let loading = docker.import_image(ImportImageOptions::default(), bollard::body_try_stream(body), None);
    let mut messages = Box::pin(loading);
    let (mut moved, mut last) = (Instant::now(), 0);
    loop {
        let message = tokio::time::timeout(TICK, messages.next()).await;
        let sent = taken.load(Ordering::Relaxed);
        report(progress, Progress { done: sent.min(whole.total), ..whole });
        match message {
            Ok(None) => break,
            Ok(Some(Ok(_))) => moved = Instant::now(),
            Ok(Some(Err(error))) => {
                drop(messages);
                return Err(match writing.join_next().await {
                    // Our own failure is why the engine's came.
                    Some(Ok(Err(source))) if source.kind() != io::ErrorKind::BrokenPipe => {
                        ImageError::Blob { source }
                    }
                    _ => shelf.engine.error("does not load the job's image", error).into(),
                });
            }
            Err(_) if sent != last => moved = Instant::now(),
            Err(_) if moved.elapsed() >= STALL => {
                return Err(ImageError::Stalled {
                    what: "the job's image".to_owned(),
                    seconds: STALL.as_secs(),
                });
            }
            Err(_) => {}
        }
        last = sent;
    }
    report(progress, Progress { done: whole.total, layers_done: whole.layers, ..whole });
    Ok(())
}

//! Images that come with the job.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use convoke_agent::engine::EngineError;
use convoke_agent::engine::images::{ImageError, Shipped, Wanted};
use futures::{FutureExt as _, StreamExt as _};

use crate::scene::{Fetched, Saved, Scene, layer, noise};

pub async fn a_shipped_image_is_loaded_once_and_layers_that_are_there_are_not_fetched(scene: &mut Scene) {
    let base = vec![layer(&[("low", &noise(300_000))]), layer(&[("middle", &noise(200_000))])];
    let first = Saved::new(scene.directory.path(), base.clone(), &scene.unique);
    scene.will_clear(first.tag());
    let load =
        |saved: &Saved, fetched: &Fetched| scene.images.ensure(Wanted::Shipped(saved.shipped(fetched)));

    let fetched = Fetched::default();
    let loading = load(&first, &fetched);
    let progress = loading.progress();
    let image = loading.done().await.unwrap();
    assert_eq!(image.id, first.id());
    for layer in &first.layers {
        assert!(fetched.lock().unwrap().contains(layer));
    }
    let end = *progress.borrow();
    assert_eq!((end.layers_done, end.layers, end.done), (2, 2, end.total), "{end}");
    assert!(end.total > 500_000, "{end}");

    // There already: only looked at.
    let fetched = Fetched::default();
    assert_eq!(load(&first, &fetched).done().await.unwrap().id, first.id());
    assert_eq!(fetched.lock().unwrap().len(), 2, "manifest and configuration");

    let more = [base, vec![layer(&[("high", &noise(100_000))])]].concat();
    let second = Saved::new(scene.directory.path(), more, &scene.unique);
    scene.will_clear(second.tag());
    let load =
        |saved: &Saved, fetched: &Fetched| scene.images.ensure(Wanted::Shipped(saved.shipped(fetched)));
    let fetched = Fetched::default();
    let image = load(&second, &fetched).done().await.unwrap();
    assert_eq!(image.id, second.id());
    let fetched: Vec<_> =
        fetched.lock().unwrap().iter().copied().filter(|d| second.layers.contains(d)).collect();
    assert_eq!(fetched, second.layers[2..]);
}

pub async fn what_docker_save_writes_is_loaded_again_under_the_same_id(scene: &mut Scene) {
    let made = scene.saved(&[50_000, 60_000]);
    let image = scene.load(&made).await;
    let archive: Vec<u8> = {
        let mut chunks = scene.docker().export_image(&image.id);
        let mut archive = Vec::new();
        while let Some(chunk) = chunks.next().await {
            archive.extend_from_slice(&chunk.unwrap());
        }
        archive
    };
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.header().entry_type().is_file() {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), content);
        }
    }
    scene.remove_image(&made.tag()).await;
    assert!(scene.docker().inspect_image(&image.id).await.is_err());

    let saved = Saved::of_files(&scene.directory.path().join("saved"), files);
    let again = scene.load(&saved).await;
    assert_eq!(again.id, image.id);
}

pub async fn layers_that_are_not_what_the_configuration_says_are_refused(scene: &mut Scene) {
    let diff_ids = [format!("sha256:{}", "ab".repeat(32))];
    let layers = vec![layer(&[("a", b"b")])];
    let saved = Saved::with_diff_ids(scene.directory.path(), layers, &diff_ids, &scene.unique);
    let wanted = Wanted::Shipped(saved.shipped(&Fetched::default()));
    let error = scene.images.ensure(wanted).done().await.unwrap_err();
    let ImageError::Engine(EngineError::Refused { message, .. }) = &*error else { panic!("{error}") };
    assert!(message.contains("invalid diffID"), "{message}");
    assert!(scene.docker().inspect_image(&saved.tag()).await.is_err());

    // One whose file is shorter than was told.
    let saved = scene.saved(&[10_000]);
    std::fs::write(saved.blobs.join(saved.layers[0].to_string()), "short").unwrap();
    let wanted = Wanted::Shipped(saved.shipped(&Fetched::default()));
    let error = scene.images.ensure(wanted).done().await.unwrap_err();
    assert!(matches!(*error, ImageError::Blob { .. }), "{error}");
    assert!(scene.docker().inspect_image(&saved.tag()).await.is_err());
}

pub async fn a_fetch_that_nobody_waits_for_any_more_ends(scene: &mut Scene) {
    struct Held(Arc<AtomicBool>);
    impl Drop for Held {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let saved = scene.saved(&[10]);
    let (asked, mut is_asked) = tokio::sync::watch::channel(false);
    let ended = Arc::new(AtomicBool::new(false));
    let flag = ended.clone();
    let blob = Arc::new(move |_| {
        asked.send_replace(true);
        let held = Held(flag.clone());
        async move {
            let _held = held;
            std::future::pending().await
        }
        .boxed()
    });
    let shipped = Shipped { manifest: Arc::new(saved.manifest.clone()), blob };
    let first = scene.images.ensure(Wanted::Shipped(shipped.clone()));
    let second = scene.images.ensure(Wanted::Shipped(shipped));
    let first = tokio::spawn(first.done());
    let second = tokio::spawn(second.done());
    is_asked.wait_for(|asked| *asked).await.unwrap();
    first.abort();
    assert!(first.await.is_err());
    assert!(!ended.load(Ordering::SeqCst), "the second still waits");
    second.abort();
    assert!(second.await.is_err());
    assert!(ended.load(Ordering::SeqCst));
}

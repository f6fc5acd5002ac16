//! Images by name.

use std::sync::Arc;

use convoke_agent::engine::images::{Image, ImageError, Images, Wanted};

use crate::registry::{PASSWORD, Registry, USER};
use crate::scene::{Scene, config};

fn named(reference: &str) -> Wanted {
    Wanted::Named { reference: reference.to_owned(), digest: None }
}

fn pinned(reference: &str, digest: &str) -> Wanted {
    Wanted::Named { reference: reference.to_owned(), digest: Some(digest.to_owned()) }
}

async fn ensure(images: &Images, wanted: Wanted) -> Result<Image, Arc<ImageError>> {
    images.ensure(wanted).done().await
}

pub async fn an_image_is_pulled_once_for_all_who_want_it_and_then_costs_no_traffic(scene: &mut Scene) {
    let mut registry = Registry::open(scene.directory.path()).await;
    let name = format!("{}/{}/two", registry.address, scene.unique);
    let saved = scene.saved(&[3 << 20, 1 << 20]);
    let digest = scene.push(&saved, &name, "1", None).await;
    let reference = format!("{name}:1");

    let before = registry.log().len();
    let wanted: Vec<_> = (0..8).map(|_| scene.images.ensure(named(&reference))).collect();
    let progress = wanted[0].progress();
    let pulled = futures::future::join_all(wanted.into_iter().map(|wanted| wanted.done())).await;
    for image in pulled {
        let image = image.unwrap();
        assert_eq!((image.id, image.digest), (saved.id(), Some(digest.clone())));
        assert!(image.size >= 4 << 20, "{}", image.size);
    }
    let said = registry.log()[before..].to_owned();
    let asked = format!("\"HEAD /v2/{}/two/manifests/1 ", scene.unique);
    assert_eq!(said.matches(&asked).count(), 1, "{said}");
    let end = *progress.borrow();
    assert_eq!((end.layers_done, end.layers, end.done), (2, 2, end.total), "{end}");
    assert!(end.total > 3 << 20, "{end}");

    registry.stop();
    assert_eq!(ensure(&scene.images, named(&reference)).await.unwrap().id, saved.id());
    assert_eq!(ensure(&scene.images, pinned(&reference, &digest)).await.unwrap().id, saved.id());
    assert_eq!(ensure(&scene.images, named(&saved.id())).await.unwrap().id, saved.id());
}

pub async fn a_pinned_digest_is_pulled_whatever_the_tag_means_now(scene: &mut Scene) {
    let registry = Registry::open(scene.directory.path()).await;
    let name = format!("{}/{}/moved", registry.address, scene.unique);
    let (old, new) = (scene.saved(&[10_000]), scene.saved(&[20_000]));
    let old_digest = scene.push(&old, &name, "1", None).await;
    let new_digest = scene.push(&new, &name, "1", None).await;
    let reference = format!("{name}:1");

    let image = ensure(&scene.images, pinned(&reference, &old_digest)).await.unwrap();
    assert_eq!((image.id, image.digest), (old.id(), Some(old_digest.clone())));
    // The name was free: with it the image is not taken for rubbish.
    assert_eq!(scene.docker().inspect_image(&reference).await.unwrap().id, Some(old.id()));

    let image = ensure(&scene.images, pinned(&reference, &new_digest)).await.unwrap();
    assert_eq!((image.id, image.digest), (new.id(), Some(new_digest)));
    assert_eq!(scene.docker().inspect_image(&reference).await.unwrap().id, Some(old.id()));

    let other = format!("sha256:{}", "0".repeat(64));
    let error = ensure(&scene.images, pinned(&reference, &other)).await.unwrap_err();
    assert!(matches!(*error, ImageError::NotFound { .. }), "{error}");
}

pub async fn an_image_that_is_missing_is_told_from_a_registry_that_is_away(scene: &mut Scene) {
    let mut registry = Registry::open(scene.directory.path()).await;
    let reference = format!("{}/{}/none:1", registry.address, scene.unique);
    let error = ensure(&scene.images, named(&reference)).await.unwrap_err();
    assert!(matches!(*error, ImageError::NotFound { .. }) && !error.is_retryable(), "{error}");
    assert!(error.to_string().contains(&reference), "{error}");

    registry.stop();
    let error = ensure(&scene.images, named(&reference)).await.unwrap_err();
    assert!(matches!(*error, ImageError::Unreachable { .. }) && error.is_retryable(), "{error}");

    let error = ensure(&scene.images, named("Not a name")).await.unwrap_err();
    assert!(matches!(*error, ImageError::BadReference(_)), "{error}");
    let error = ensure(&scene.images, named(&format!("sha256:{}", "0".repeat(64)))).await.unwrap_err();
    assert!(matches!(*error, ImageError::NoSuchId { .. }), "{error}");
}

pub async fn wrong_credentials_are_told_with_the_user_and_right_ones_work(scene: &mut Scene) {
    let registry = Registry::closed(scene.directory.path()).await;
    let name = format!("{}/{}/private", registry.address, scene.unique);
    let saved = scene.saved(&[10_000]);
    scene.push(&saved, &name, "1", Some((USER, PASSWORD))).await;
    let reference = format!("{name}:1");

    let error = ensure(&scene.images, named(&reference)).await.unwrap_err();
    assert!(matches!(*error, ImageError::Denied { .. }) && !error.is_retryable(), "{error}");
    let text = error.to_string();
    assert!(text.contains("without credentials") && text.contains("docker login 127.0.0.1:"), "{text}");

    let log_in = |password: &str| {
        let entry = serde_json::json!({ "username": USER, "password": password });
        let config = serde_json::json!({ "auths": { registry.address.clone(): entry } });
        std::fs::write(scene.directory.path().join("docker-config.json"), config.to_string()).unwrap();
    };
    log_in("wrong");
    let error = ensure(&scene.images, named(&reference)).await.unwrap_err();
    assert!(matches!(*error, ImageError::Denied { .. }), "{error}");
    assert!(error.to_string().contains(&format!("the user {USER:?}")), "{error}");

    log_in(PASSWORD);
    assert_eq!(ensure(&scene.images, named(&reference)).await.unwrap().id, saved.id());
}

pub async fn a_blob_that_was_damaged_in_the_registry_is_told(scene: &mut Scene) {
    let registry = Registry::open(scene.directory.path()).await;
    let name = format!("{}/{}/damaged", registry.address, scene.unique);
    let saved = scene.saved(&[100_000]);
    scene.push(&saved, &name, "1", None).await;
    registry.damage_layers();
    let data_root = scene.engine.info().await.unwrap().data_root;
    let images = Images::new(scene.engine.clone(), config(scene.directory.path(), &data_root, 0));
    let error = ensure(&images, named(&format!("{name}:1"))).await.unwrap_err();
    assert!(matches!(*error, ImageError::Damaged { .. }), "{error}");
}

//! Cleaning away.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptions, TagImageOptionsBuilder};
use convoke_agent::clock::now;
use convoke_agent::engine::images::{Removed, Wanted};

use crate::registry::Registry;
use crate::scene::Scene;

pub async fn only_what_was_fetched_here_and_is_unused_is_removed(scene: &mut Scene) {
    let names = ["unused", "kept", "running", "named"];
    let mut images = Vec::new();
    for size in 1..=names.len() {
        let saved = scene.saved(&[size]);
        images.push((scene.load(&saved).await, saved));
    }
    let [unused, kept, running, named] = images.try_into().unwrap_or_else(|_| panic!("four images"));
    // Somebody's own name for one of them, and an image that the agent never fetched.
    let theirs = format!("{}/theirs", scene.unique);
    let tag = |name: &str| TagImageOptionsBuilder::default().repo(name).tag("1").build();
    scene.docker().tag_image(&named.0.id, Some(tag(&theirs))).await.unwrap();
    scene.will_clear(format!("{theirs}:1"));
    create(scene, &running.0.id).await;

    let keep = BTreeSet::from([kept.0.id.clone()]);
    let early = now().after(Duration::from_secs(13 * 86_400));
    assert!(scene.images.gc(&keep, early).await.unwrap().is_empty());

    let late = now().after(Duration::from_secs(15 * 86_400));
    let removed = scene.images.gc(&keep, late).await.unwrap();
    assert_eq!(ids(removed), BTreeSet::from([unused.0.id.clone()]));
    let docker = scene.docker();
    assert!(docker.inspect_image(&unused.0.id).await.is_err());
    for (image, saved) in [&kept, &running] {
        assert_eq!(docker.inspect_image(&saved.tag()).await.unwrap().id, Some(image.id.clone()));
    }
    let left = docker.inspect_image(&named.0.id).await.unwrap();
    assert_eq!(left.repo_tags, Some(vec![format!("{theirs}:1")]), "ours is gone, theirs is not");

    // What was in the way is gone: so is the image, but for what is theirs now.
    scene.clear_containers().await;
    let removed = scene.images.gc(&BTreeSet::new(), late).await.unwrap();
    assert_eq!(ids(removed), BTreeSet::from([kept.0.id, running.0.id]));
    assert!(scene.docker().inspect_image(&named.0.id).await.is_ok());
}

pub async fn a_pulled_image_is_removed_whole_once_no_container_is_made_of_it(scene: &mut Scene) {
    let registry = Registry::open(scene.directory.path()).await;
    let name = format!("{}/{}/used", registry.address, scene.unique);
    let saved = scene.saved(&[10]);
    scene.push(&saved, &name, "1", None).await;
    let reference = format!("{name}:1");
    let wanted = Wanted::Named { reference: reference.clone(), digest: None };
    let image = scene.images.ensure(wanted).done().await.unwrap();
    create(scene, &image.id).await;

    let late = now().after(Duration::from_secs(15 * 86_400));
    assert!(scene.images.gc(&BTreeSet::new(), late).await.unwrap().is_empty());
    assert_eq!(scene.docker().inspect_image(&reference).await.unwrap().id, Some(image.id.clone()));

    scene.clear_containers().await;
    let removed = scene.images.gc(&BTreeSet::new(), late).await.unwrap();
    assert_eq!(removed, [Removed { id: image.id.clone(), reference, size: image.size }]);
    assert!(scene.docker().inspect_image(&image.id).await.is_err());
}

async fn create(scene: &mut Scene, image: &str) {
    let body = ContainerCreateBody { image: Some(image.to_owned()), ..Default::default() };
    let container = scene.docker().create_container(None::<CreateContainerOptions>, body).await.unwrap();
    scene.will_remove(container.id);
}

fn ids(removed: Vec<Removed>) -> BTreeSet<String> {
    removed.into_iter().map(|image| image.id).collect()
}

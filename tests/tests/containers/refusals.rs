//! What cannot run says so by name, with what to do, and leaves nothing behind.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Instant;

use convoke_tests::{BASE, ClusterOptions, DEADLINE, Finished, Registry, Scene, TORCH};

/// `convoke up` with these arguments ends with `code`, and tells all of `words`.
async fn ends(scene: &Scene, args: &[&str], code: i32, words: &[&str]) -> Finished {
    let started = Instant::now();
    let up = scene.convoke(&[&["up"], args].concat()).run().await.expect_code(code);
    assert!(started.elapsed() < DEADLINE, "it took {:?}", started.elapsed());
    for word in words {
        let told = up.stderr.contains(word) || up.stdout.contains(word);
        assert!(told, "no \"{word}\" in:\n{}\n{}", up.stdout, up.stderr);
    }
    up
}

/// The same of a job of these keys, on one node.
async fn job_ends(keys: &str, code: i32, words: &[&str]) {
    let scene = Scene::start(&[1]).await;
    scene.compose(keys);
    ends(&scene, &[], code, words).await;
    scene.cluster.finish().await;
}

pub(crate) async fn an_image_that_its_registry_does_not_have_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let registry = Registry::start(directory.path()).await;
    let image = format!("{}/team/no-such-image:1", registry.address);
    let words = ["there is no such image", &image, "docker-compose.yml:4: services.job.image"];
    job_ends(&format!("image: {image}\ncommand: \"true\""), 1, &words).await;
}

pub(crate) async fn an_image_whose_registry_cannot_be_reached_is_named() {
    // Nobody listens on port 1.
    let image = "127.0.0.1:1/convoke-test/no-such-image:1";
    let words = [image, "could not reach the registry", "check the registry's name in `image`"];
    job_ends(&format!("image: {image}\ncommand: \"true\""), 1, &words).await;
}

pub(crate) async fn a_login_that_the_registry_refuses_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let registry = Registry::start_closed(directory.path()).await;
    // eve:wrong
    let login = format!("{{\"auths\": {{\"{}\": {{\"auth\": \"ZXZlOndyb25n\"}}}}}}", registry.address);
    std::fs::write(directory.path().join("config.json"), login).expect("it is writable");
    let config = directory.path().display().to_string();
    let options = ClusterOptions {
        agent_variables: vec![("DOCKER_CONFIG".to_owned(), config)],
        ..ClusterOptions::containers(&[1])
    };
    let scene = Scene::start_with(options).await;
    let image = format!("{}/team/private:1", registry.address);
    scene.compose(&format!("image: {image}\ncommand: \"true\""));
    let words = ["the user \"eve\"", "docker login", &image, "docker-compose.yml:4: services.job.image"];
    ends(&scene, &[], 1, &words).await;
    scene.cluster.finish().await;
}

pub(crate) async fn a_volume_of_an_absolute_path_that_the_node_lacks_is_refused_by_name() {
    let keys = format!("image: {BASE}\nvolumes: [\"/no/such/data:/data:ro\"]\ncommand: \"true\"");
    let advice = "create it there, or write it relative to the Compose file";
    job_ends(&keys, 1, &["/no/such/data", "/data", "node-0", advice]).await;
    assert!(!Path::new("/no/such/data").exists(), "it was made");
}

pub(crate) async fn two_services_that_ask_for_one_gpu_are_refused_with_both_names() {
    let scene = Scene::start(&[1]).await;
    let service = |name: &str| format!("  {name}: {{image: {BASE}, gpus: [{{device_ids: [\"1\"]}}]}}\n");
    let services = service("serve") + &service("train");
    scene.write("docker-compose.yml", &format!("services:\n{services}"));
    let words =
        ["\"train\" asks for GPU 1 and so does \"serve\"", "docker-compose.yml:2", "docker-compose.yml:3"];
    ends(&scene, &[], 2, &words).await;
    scene.cluster.finish().await;
}

pub(crate) async fn torchrun_standalone_in_a_gang_of_two_is_refused_with_the_fix() {
    let scene = Scene::start(&[1, 1]).await;
    let keys = format!("image: {TORCH}\ncommand: >\n  torchrun --standalone --nproc_per_node=1\n  train.py");
    scene.compose(&keys);
    ends(&scene, &["--nodes", "2"], 2, &["docker-compose.yml:6", "--standalone", "2 nodes", "remove it"])
        .await;
    scene.cluster.finish().await;
}

pub(crate) async fn a_link_out_of_what_travels_is_refused_by_name() {
    let scene = Scene::start(&[1]).await;
    scene.compose(&format!("image: {BASE}\nvolumes: [\"./data:/data\"]\ncommand: \"true\""));
    scene.write("data/a", "a");
    symlink("/etc/passwd", scene.project.join("data/users")).expect("a link can be made");
    ends(&scene, &[], 1, &["data/users", "/etc/passwd"]).await;
    scene.cluster.finish().await;
}

pub(crate) async fn ten_gigabytes_are_refused_by_a_smaller_limit_with_advice() {
    let scene = Scene::start(&[1]).await;
    scene.compose(&format!("image: {BASE}\nvolumes: [\"./data:/data:ro\"]\ncommand: \"true\""));
    scene.write("data/a", "a");
    let huge = File::create(scene.project.join("data/huge.bin")).expect("it is writable");
    huge.set_len(10 << 30).expect("files may have holes");
    let advice = ["huge.bin 10.0 GiB", ".convokeignore", "--max-ship-size", "the 5.0 GiB that may travel"];
    ends(&scene, &["--max-ship-size", "5GiB"], 1, &advice).await;
    assert!(scene.cluster.all_jobs().await.is_empty(), "nothing was submitted");
    scene.write(".convokeignore", "*.bin\n");
    ends(&scene, &["--max-ship-size", "5GiB"], 0, &["shipped 1 of 1 file"]).await;
    scene.cluster.finish().await;
}

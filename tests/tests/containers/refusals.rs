//! What cannot run says so by name, with what to do, and leaves nothing behind.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::time::Instant;

use convoke_tests::{DEADLINE, Finished};

use super::needs::{BASE, TORCH};
use super::scene::Scene;

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

pub(crate) async fn an_image_that_nobody_has_is_named() {
    // Nobody listens on port 1.
    let image = "127.0.0.1:1/convoke-test/no-such-image:1";
    job_ends(&format!("image: {image}\ncommand: \"true\""), 1, &[image]).await;
}

pub(crate) async fn a_command_that_is_not_in_the_image_is_named_with_127() {
    let keys = format!("image: {BASE}\ncommand: no-such-trainer --epochs 3");
    job_ends(&keys, 127, &["code 127", "no-such-trainer"]).await;
}

pub(crate) async fn a_file_that_is_no_program_is_named_with_126() {
    job_ends(&format!("image: {BASE}\ncommand: /etc/passwd"), 126, &["code 126", "/etc/passwd"]).await;
}

pub(crate) async fn a_volume_of_a_path_that_cannot_be_is_named() {
    let keys = format!("image: {BASE}\nvolumes: [\"/proc/no/such/data:/data:ro\"]\ncommand: \"true\"");
    job_ends(&keys, 1, &["/proc/no/such/data", "/data"]).await;
}

pub(crate) async fn a_published_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let keys = format!(
        "image: {BASE}\nports: [\"{port}:80\"]\ncommand: \"true\"\ndeploy:\n  restart_policy: {{condition: none}}"
    );
    let scene = Scene::start(&[1]).await;
    scene.cluster.announce("node-0", "task could not be started");
    scene.compose(&keys);
    ends(&scene, &[], 1, &[&format!("port {port} of this node is taken")]).await;
    scene.cluster.finish().await;
}

pub(crate) async fn torchrun_standalone_in_a_gang_of_two_is_refused_with_the_fix() {
    let scene = Scene::start(&[1, 1]).await;
    let keys = format!("image: {TORCH}\ncommand: >\n  torchrun --standalone --nproc_per_node=1\n  train.py");
    scene.compose(&keys);
    ends(&scene, &["--nodes", "2"], 2, &["compose.yaml:6", "--standalone", "2 nodes", "remove it"]).await;
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

//! One cause a story, each brought about for real.

use std::net::TcpListener;

use convoke_tests::{BASE, Scene};

/// `up` of a job of these keys, on one node, ends with `code` and tells all of `words`.
async fn story(keys: &str, code: i32, words: &[&str]) -> Scene {
    let scene = Scene::start(&[1]).await;
    scene.compose(keys);
    scene.up_fails(code, words).await;
    scene
}

pub(crate) async fn a_kernel_s_out_of_memory_kill_names_its_limit_and_the_line_that_sets_it() {
    // A shell variable that doubles.
    let keys = format!(
        "image: {BASE}\ncommand: [\"sh\", \"-c\", \"x=0123456789abcdef; while :; do x=$$x$$x; done\"]\n\
         deploy:\n  resources:\n    limits:\n      memory: 24m"
    );
    let words = [
        "rank 0 on node-0: the kernel killed a process of the task because its memory ran out",
        "it may use 24.0 MiB",
        "\n  try: raise `deploy.resources.limits.memory`",
        "\n  docker-compose.yml:9: services.job.deploy.resources.limits.memory\n",
    ];
    let scene = story(&keys, 137, &words).await;
    let job = scene.job().await;
    let failure = &job["last_failure"];
    assert_eq!(
        (&failure["explanation"]["cause"], &failure["class"]),
        (&"OutOfMemory".into(), &"application".into())
    );
    assert_eq!((&job["restarts_infrastructure"], &job["generation"]), (&0.into(), &1.into()));
    assert_eq!(job["replicas"][0]["tasks"][0]["exit"]["oom_killed"], true);
    scene.cluster.finish().await;
}

pub(crate) async fn a_full_dev_shm_names_its_size_and_what_was_in_use() {
    // It lives on for some of the agent's looks at it.
    let script = "dd if=/dev/zero of=/dev/shm/fill bs=1M; code=$$?; sleep 5; exit $$code";
    let keys = format!("image: {BASE}\nshm_size: 16m\ncommand: [\"sh\", \"-c\", \"{script}\"]");
    let words = [
        "rank 0 on node-0: /dev/shm was full: its size is 16.0 MiB, 16.0 MiB were in use",
        "\n    dd: error writing '/dev/shm/fill': No space left on device\n",
        "\n  try: raise `shm_size` (say `shm_size: 16g`)",
        "\n  docker-compose.yml:5: services.job.shm_size\n",
    ];
    let scene = story(&keys, 1, &words).await;
    scene.cluster.finish().await;
}

pub(crate) async fn a_command_that_is_not_in_the_image_is_named() {
    let words = [
        "rank 0 on node-0: the command no-such-trainer was not found in the image convoke-test/base:1",
        "\n  docker-compose.yml:5: services.job.command\n",
    ];
    let scene = story(&format!("image: {BASE}\ncommand: no-such-trainer --epochs 3"), 127, &words).await;
    assert_eq!(scene.job().await["last_failure"]["explanation"]["key"], "command");
    scene.cluster.finish().await;
}

pub(crate) async fn a_file_that_is_not_executable_is_named() {
    let words = [
        "rank 0 on node-0: /etc/passwd is there, and cannot be executed",
        "\n  try: `chmod +x` it",
        "\n  docker-compose.yml:5: services.job.command\n",
    ];
    let scene = story(&format!("image: {BASE}\ncommand: /etc/passwd"), 126, &words).await;
    scene.cluster.finish().await;
}

pub(crate) async fn an_image_that_nobody_has_names_the_line_of_image() {
    // An id cannot be pulled, so no registry is asked.
    let image = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let keys = format!("command: \"true\"\nimage: {image}");
    let words = [
        "node-0: there is no such image",
        "\n  try: correct the name and tag in `image`",
        "\n  docker-compose.yml:5: services.job.image\n",
    ];
    let scene = story(&keys, 1, &words).await;
    assert_eq!(scene.job().await["last_failure"]["explanation"]["cause"], "ImageNotFound");
    scene.cluster.finish().await;
}

pub(crate) async fn a_port_that_is_taken_is_named_and_not_charged() {
    let taken = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let scene = Scene::start(&[1]).await;
    scene.cluster.announce("node-0", "task could not be started");
    scene.compose(&format!(
        "image: {BASE}\nports: [\"{port}:80\"]\ncommand: \"true\"\ndeploy:\n  restart_policy: {{condition: none}}"
    ));
    let words = [
        &format!("rank 0 on node-0: port {port} of node-0 is taken by another container or program"),
        "\n  try: publish another one",
        "\n  docker-compose.yml:5: services.job.ports\n",
    ];
    scene.up_fails(1, &words).await;
    // It was tried more often than its budget of none allows.
    let job = scene.job().await;
    assert_eq!(
        (&job["restarts_application"], &job["last_failure"]["class"]),
        (&0.into(), &"infrastructure".into())
    );
    assert!(job["generation"].as_u64() > Some(1), "{}", job["generation"]);
    scene.cluster.finish().await;
}

pub(crate) async fn a_process_of_the_host_is_explained_too() {
    let keys = "command: [\"sh\", \"-c\", \"no-such-tool --version\"]";
    let words = ["rank 0 on node-0: the command no-such-tool was not found", "\n  docker-compose.yml:4: "];
    let scene = story(keys, 127, &words).await;
    scene.cluster.finish().await;
}

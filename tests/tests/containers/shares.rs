//! Directories that the nodes see by themselves: mounted where they are, if a marker proves it.

use std::fs;
use std::path::Path;
use std::process::Command;

use convoke_proto::v1;
use convoke_tests::{JOB, Scene};

const VOLUMES: &str = "volumes: [\"./data:/data:ro\", \"./out:/out\"]";
const MARKER: &str = ".convoke-shared";

/// Says what it found in ./data, and writes to both directories as far as it may.
const SCRIPT: &str = "cat /data/in > /out/of-$RANK
    echo x 2>/dev/null > /data/new || echo read-only >> /out/of-$RANK";

/// A project that runs it on two nodes; `data/in` holds `original`.
fn fill(scene: &Scene) {
    scene.script(SCRIPT, VOLUMES);
    scene.write("data/in", "original\n");
    fs::create_dir(scene.project.join("out")).expect("it is writable");
}

/// The names in a directory of the project.
fn names(scene: &Scene, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(scene.project.join(directory)).expect("it is there").flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub(crate) async fn a_directory_that_both_nodes_see_is_mounted_and_nothing_of_it_travels() {
    let scene = Scene::start(&[1, 1]).await;
    fill(&scene);
    let local = scene.convoke(&["up", "--nodes", "2"]).run().await.expect_code(0);
    assert!(local.stderr.contains("shipped 1 of 1 file"), "local directories travel: {}", local.stderr);
    assert_eq!((names(&scene, "data"), names(&scene, "out")), (vec!["in".into()], vec!["of-0".into()]));

    fs::remove_file(scene.project.join("out/of-0")).expect("it came back");
    let args = ["up", "--nodes", "2", "--files", "shared", "--max-ship-size", "1B"];
    let dry = scene.convoke(&[&args[..], &["--dry-run"]].concat()).run().await.expect_code(0);
    assert!(
        dry.stdout.contains("./data is on a file system that the nodes share: would be"),
        "{}",
        dry.stdout
    );
    assert_eq!(names(&scene, "data"), ["in"], "a look leaves nothing");

    let up = scene.convoke(&args).run().await.expect_code(0);
    for directory in ["data", "out"] {
        let told = format!("./{directory} is on a file system that the nodes share: mounted, not shipped");
        assert!(up.stderr.contains(&told), "{}", up.stderr);
    }
    assert!(!up.stderr.contains("shipped 1") && !up.stderr.contains("came back"), "{}", up.stderr);
    assert_eq!(names(&scene, "data"), [MARKER, "in"], "read-only, and the marker stays");
    assert_eq!(names(&scene, "out"), [MARKER, "of-0", "of-1"], "each rank wrote to the same directory");
    assert_eq!(scene.read("out/of-1").as_deref(), Some("original\nread-only\n"));
    let pull = scene.convoke(&["pull", JOB]).run().await.expect_code(0);
    assert!(pull.stderr.contains("./out is on a file system that the nodes share"), "{}", pull.stderr);
    assert!(!pull.stderr.contains("./data"), "nothing was written there: {}", pull.stderr);

    let ship = scene.convoke(&["up", "--files", "ship"]).run().await.expect_code(0);
    assert!(ship.stderr.contains("of 3 files"), "a marker is no content: {}", ship.stderr);
    scene.cluster.finish().await;
}

pub(crate) async fn a_marker_that_is_gone_at_the_start_is_told_by_node_and_path_until_it_is_back() {
    let scene = Scene::start(&[1]).await;
    fill(&scene);
    scene.convoke(&["up", "--files", "shared"]).run().await.expect_code(0);
    let marker = scene.project.join("data").join(MARKER);
    let content = fs::read(&marker).expect("it stays");
    fs::remove_file(&marker).expect("it is the test's");
    scene.convoke(&["restart", JOB]).run().await.expect_code(0);
    let told = |job: &v1::Job| job.reason.contains("does not see the shared directory");
    let job = scene.cluster.wait_for(JOB, "it says which directory is not there", told).await;
    for word in ["node-0", &scene.project.join("data").display().to_string(), "--files ship"] {
        assert!(job.reason.contains(word), "no {word} in: {}", job.reason);
    }
    fs::write(&marker, content).expect("it is the test's");
    scene.cluster.wait_state(JOB, v1::JobState::Succeeded).await;
    assert_eq!(scene.cluster.job(JOB).await.restarts_application, 0, "it is not the job's fault");
    scene.cluster.finish().await;
}

pub(crate) async fn a_directory_that_a_node_does_not_see_is_shipped_or_refused_by_its_name() {
    let scene = Scene::start(&[1]).await;
    fill(&scene);
    let mut blind = scene.cluster.agent_without(&scene.project, "node-1", 1);
    scene.cluster.wait_node(1, v1::NodeState::Ready).await;

    let shared = scene.convoke(&["up", "--nodes", "2", "--files", "shared"]).run().await.expect_code(1);
    for word in ["./data", "node-1 cannot see it at that path", "--files auto", "constraints"] {
        assert!(shared.stderr.contains(word), "no {word} in: {}", shared.stderr);
    }
    assert!(!shared.stderr.contains("node-0"), "{}", shared.stderr);
    assert!(scene.cluster.all_jobs().await.is_empty(), "nothing was submitted");
    assert_eq!(names(&scene, "data"), ["in"], "no marker is left");

    for files in ["auto", "ship"] {
        scene.convoke(&["up", "--nodes", "2", "--files", files, "--replace"]).run().await.expect_code(0);
        assert_eq!((names(&scene, "data"), names(&scene, "out")), (vec!["in".into()], vec!["of-0".into()]));
    }

    // The node that does not see it need not, where the job cannot get it.
    let alone = "deploy: {placement: {constraints: [\"node.id == node-0\"]}}";
    scene.script(SCRIPT, &format!("{VOLUMES}\n{alone}"));
    scene.convoke(&["up", "--files", "shared"]).run().await.expect_code(0);
    assert_eq!(names(&scene, "data"), [MARKER, "in"]);
    blind.terminate("the agent that does not see it").await;
    scene.cluster.finish().await;
}

/// Shows one directory at another place through FUSE.
struct Fuse<'a>(&'a Path);

impl<'a> Fuse<'a> {
    fn mount(from: &Path, at: &'a Path) -> Self {
        let status = Command::new("bindfs").arg(from).arg(at).status();
        assert!(status.is_ok_and(|status| status.success()), "it is not mounted");
        Self(at)
    }
}

impl Drop for Fuse<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

pub(crate) async fn a_directory_on_fuse_is_mounted_without_being_asked_for() {
    let scene = Scene::start(&[1, 1]).await;
    fill(&scene);
    let (server, data) = (scene.cluster.directory().join("server"), scene.project.join("data"));
    fs::create_dir(&server).expect("it is writable");
    fs::remove_file(data.join("in")).expect("it is the test's");
    let fuse = Fuse::mount(&server, &data);
    fs::write(data.join("in"), "from the server\n").expect("it is writable");
    let up = scene.convoke(&["up", "--nodes", "2"]).run().await.expect_code(0);
    let told = "./data is on a file system that the nodes share: mounted, not shipped";
    assert!(up.stderr.contains(told) && !up.stderr.contains("./out is on"), "{}", up.stderr);
    assert_eq!(scene.read("out/of-0").as_deref(), Some("from the server\nread-only\n"));
    assert!(server.join(MARKER).exists() && !scene.project.join("out").join(MARKER).exists());
    drop(fuse);
    scene.cluster.finish().await;
}

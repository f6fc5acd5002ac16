//! A disk that is full is told of, and nothing is half done.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use convoke_proto::v1;
use convoke_tests::{BASE, ClusterOptions, JOB, LocalCluster, Registry, Scene, docker, eventually};

use super::hosts::Hosts;

/// A small file system in memory, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn at(directory: &Path, size: &str) -> Self {
        let disk = Self(directory.to_owned());
        disk.mount(&format!("size={size},mode=700"));
        disk
    }

    fn grow(&self, size: &str) {
        self.mount(&format!("remount,size={size}"));
    }

    fn mount(&self, options: &str) {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "convoke"]).arg(&self.0).status();
        assert!(mounted.is_ok_and(|status| status.success()), "it is not mounted");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may be unmounted already, which umount would say.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

/// Bytes that no compression makes less of, other ones for each `seed`.
fn noise(seed: u32, bytes: usize) -> Vec<u8> {
    let mut state = seed + 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

pub(crate) async fn a_coordinator_whose_disk_is_full_takes_nothing_and_works_once_it_has_space() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = Disk::at(directory.path(), "24m");
    let options = ClusterOptions {
        slots: Vec::new(),
        data_dir: Some(directory.path().join("data")),
        ..ClusterOptions::default()
    };
    let cluster = LocalCluster::start_with(options).await;
    cluster.announce("coordinator", "the coordinator's disk is full");
    let project = cluster.directory().join("project");
    std::fs::create_dir_all(project.join("data")).expect("it is writable");
    let compose = "name: story\nservices:\n  job:\n    image: example.invalid/none:1\n    command: \"true\"\n    \
                   volumes: [\"./data:/data:ro\"]\n";
    std::fs::write(project.join("compose.yaml"), compose).expect("it is writable");
    for n in 0..8_u8 {
        // Equal contents are stored once.
        let bytes = noise(n.into(), 4 << 20);
        std::fs::write(project.join(format!("data/{n}.bin")), bytes).expect("it is writable");
    }
    let up = || {
        let args = ["up", "-d", "--wait-for-nodes", "--no-ship-image"];
        cluster.cli(&args).directory(&project).variable("DOCKER_HOST", "unix:///nowhere/docker.sock").run()
    };

    let full = up().await.expect_code(4);
    assert!(full.stderr.contains("disk is full") && full.stderr.contains("free space"), "{}", full.stderr);
    assert!(cluster.all_jobs().await.is_empty(), "nothing was submitted");

    disk.grow("256m");
    up().await.expect_code(0);
    assert_eq!(cluster.all_jobs().await.len(), 1);
    cluster.finish().await;
}

pub(crate) async fn an_engine_whose_disk_fills_up_in_a_pull_is_told_of_and_the_job_runs_once_there_is_space()
{
    let mut disk = None;
    let hosts = Hosts::start_with(&[1], &["--keep-free=0"], |data| disk = Some(Disk::at(data, "64m"))).await;
    let disk = disk.expect("it was mounted");
    let scene = &hosts.scene;
    let registry = Registry::start_at(Ipv4Addr::UNSPECIFIED, scene.cluster.directory(), "").await;
    let (_, port) = registry.address.rsplit_once(':').expect("HOST:PORT");
    let (here, there) =
        (format!("127.0.0.1:{port}/large:1"), format!("{}:{port}/large:1", hosts.networks.host()));
    // Zeros: a small layer on its way, which nobody would refuse, and a large one where it is unpacked.
    scene.write("image/Dockerfile", &format!("FROM {BASE}\nCOPY large /large\n"));
    let large = File::create(scene.project.join("image/large")).expect("it is writable");
    large.set_len(128 << 20).expect("files may have holes");
    docker(&["build", "--tag", &here, &scene.project.join("image").display().to_string()]);
    docker(&["push", &here]);
    docker(&["image", "rm", "--force", &here]);

    scene.compose(&format!("image: {there}\ncommand: ls /large"));
    let words = ["the disk filled up while the engine fetched", "free some space below", "node-0"];
    scene.up_fails(1, &words).await;
    disk.grow("1g");
    scene.convoke(&["restart", JOB]).run().await.expect_code(0);
    scene.cluster.wait_state(JOB, v1::JobState::Succeeded).await;
    drop(registry);
    hosts.finish().await;
}

pub(crate) async fn files_that_a_full_coordinator_does_not_take_stay_on_their_node_until_it_does() {
    const SIZE: u64 = 64 << 20;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let disk = Disk::at(directory.path(), "32m");
    let scene = Scene::start_with(ClusterOptions {
        data_dir: Some(directory.path().join("data")),
        agent_args: vec!["--files-patience=500ms".to_owned()],
        ..ClusterOptions::containers(&[1])
    })
    .await;
    for text in ["disk is full", "DISK_FULL", "not with the coordinator yet"] {
        scene.cluster.announce("coordinator", text);
        scene.cluster.announce("node-0", text);
    }
    let keys = "volumes: [\"./out:/out\"]";
    scene.script(&format!("head -c {SIZE} /dev/urandom > /out/big; echo small > /out/small"), keys);
    std::fs::create_dir(scene.project.join("out")).expect("it is writable");

    let up = scene.convoke(&["up", "--wait-for-files=1s"]).run().await.expect_code(1);
    assert_eq!(scene.read("out/small").as_deref(), Some("small\n"));
    assert!(up.stderr.contains("succeeded"), "{}", up.stderr);
    assert!(up.stderr.contains("convoke pull story-job"), "{}", up.stderr);
    let place = up.stderr.split(" on node node-0 in ").nth(1).and_then(|rest| rest.split(',').next());
    let place = Path::new(place.unwrap_or_else(|| panic!("{}", up.stderr))).to_owned();
    let kept = || std::fs::metadata(place.join("0/upper/big")).map(|found| found.len()).ok();
    assert_eq!(kept(), Some(SIZE), "{}", place.display());
    let inspect = scene.convoke(&["inspect", JOB]).run().await.expect_code(0);
    assert!(inspect.stdout.contains("ReturningFiles"), "{}", inspect.stdout);

    disk.grow("512m");
    scene.convoke(&["pull", "--follow", JOB]).run().await.expect_code(0);
    let came = std::fs::metadata(scene.project.join("out/big")).expect("it came back");
    assert_eq!(came.len(), SIZE);
    eventually("what was kept goes", async || kept().is_none().then_some(())).await;
    scene.cluster.finish().await;
}

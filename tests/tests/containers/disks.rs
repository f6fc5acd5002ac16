//! A disk that is full is told of, and nothing is half done.

use std::path::Path;
use std::process::Command;

use convoke_tests::{ClusterOptions, LocalCluster, eventually};

use super::scene::{JOB, Scene};

/// A small file system in memory, unmounted when dropped.
struct Disk(tempfile::TempDir);

impl Disk {
    fn of(size: &str) -> Self {
        let disk = Self(tempfile::tempdir().expect("a temporary directory"));
        disk.mount(&format!("size={size},mode=700"));
        disk
    }

    fn grow(&self, size: &str) {
        self.mount(&format!("remount,size={size}"));
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn mount(&self, options: &str) {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "convoke"]).arg(self.path()).status();
        assert!(mounted.is_ok_and(|status| status.success()), "it is not mounted");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

pub(crate) async fn a_coordinator_whose_disk_is_full_takes_nothing_and_works_once_it_has_space() {
    let disk = Disk::of("24m");
    let options = ClusterOptions {
        slots: Vec::new(),
        data_dir: Some(disk.path().join("data")),
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
        // Different bytes in each: equal contents are stored once.
        let mut state = u32::from(n) + 1;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let bytes: Vec<u8> = (0..4 << 20).map(|_| noise()).collect();
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

pub(crate) async fn files_that_a_full_coordinator_does_not_take_stay_on_their_node_until_it_does() {
    const SIZE: u64 = 64 << 20;
    let disk = Disk::of("32m");
    let scene = Scene::start_with(ClusterOptions {
        data_dir: Some(disk.path().join("data")),
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

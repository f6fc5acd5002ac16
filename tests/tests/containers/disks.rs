//! A disk that is full is told of, and nothing is half done.

use std::path::Path;
use std::process::Command;

use convoke_tests::{ClusterOptions, LocalCluster};

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

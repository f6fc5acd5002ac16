//! What stories of containers share: a cluster, and a project directory of the submitter's.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{BASE, Cli, ClusterOptions, Gate, LocalCluster, eventually};

/// The job of the project's one service.
pub const JOB: &str = "story-job";

/// A cluster whose agents run containers, and the directory that jobs are submitted from.
#[derive(Debug)]
pub struct Scene {
    pub cluster: LocalCluster,
    pub project: PathBuf,
}

impl Scene {
    pub async fn start(slots: &[u32]) -> Self {
        Self::start_with(ClusterOptions::containers(slots)).await
    }

    pub async fn start_with(options: ClusterOptions) -> Self {
        let cluster = LocalCluster::start_with(options).await;
        let project = cluster.directory().join("project");
        fs::create_dir(&project).expect("it is writable");
        Self { cluster, project }
    }

    /// Writes a file of the project.
    pub fn write(&self, path: &str, content: &str) {
        let path = self.project.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("it is writable");
        fs::write(path, content).expect("it is writable");
    }

    /// The content of a file of the project, if it is there.
    pub fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.project.join(path)).ok()
    }

    /// Writes `docker-compose.yml`: service `job` with these keys, the first of them on line 4.
    pub fn compose(&self, keys: &str) {
        let keys: String = keys.lines().map(|line| format!("    {line}\n")).collect();
        self.write("docker-compose.yml", &format!("name: story\nservices:\n  job:\n{keys}"));
    }

    /// The same, on the base image, whose shell runs `script`.
    pub fn script(&self, script: &str, keys: &str) {
        let script = script.replace('$', "$$");
        let script: String = script.lines().map(|line| format!("    {line}\n")).collect();
        self.compose(&format!("image: {BASE}\n{keys}\ncommand:\n  - sh\n  - -c\n  - |\n{script}"));
    }

    /// A gate for the tasks, and the volume that makes it theirs.
    pub fn gate(&self, name: &str) -> (Gate, String) {
        let directory = self.cluster.directory().join(format!("gate-{name}"));
        fs::create_dir(&directory).expect("it is writable");
        let volume = format!("{0}:{0}", directory.display());
        (Gate::new(&directory, name), volume)
    }

    /// The running container of the job's rank.
    pub async fn container(&self, rank: u32) -> String {
        let id = self.cluster.job(JOB).await.id;
        let running = async || self.cluster.containers().of_rank(&id, rank);
        eventually(&format!("the container of rank {rank} runs"), running).await
    }

    /// `convoke` in the project's directory.
    pub fn convoke(&self, args: &[&str]) -> Cli {
        self.cluster.cli(args).directory(&self.project)
    }

    /// `convoke up` fails with `code` and tells all of `words` at its end.
    pub async fn up_fails(&self, code: i32, words: &[&str]) {
        let up = self.convoke(&["up"]).run().await.expect_code(code);
        let told = up.stderr.split_once("\nerror: ").map(|(_, told)| told).unwrap_or_default();
        for word in words {
            assert!(told.contains(word), "no \"{word}\" in the error of:\n{}\n{}", up.stdout, up.stderr);
        }
    }

    /// The job as programs see it.
    pub async fn job(&self) -> Value {
        self.convoke(&["inspect", JOB, "-o", "json"]).run().await.expect_code(0).json()
    }
}

/// Copies a directory with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("it is writable");
    for entry in fs::read_dir(from).expect("it is a directory").flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("it can be copied")),
        }
    }
}

//! What the stories share: a cluster with containers, and a project directory of the submitter's.

use std::fs;
use std::path::{Path, PathBuf};

use convoke_tests::{Cli, ClusterOptions, Gate, LocalCluster, eventually};

use crate::needs::BASE;

/// The project of most stories, and the job of its one service.
pub(crate) const PROJECT: &str = "story";
pub(crate) const JOB: &str = "story-job";

pub(crate) fn block_on(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime can be built").block_on(Box::pin(story));
}

/// A cluster whose agents run containers, and the directory that jobs are submitted from.
pub(crate) struct Scene {
    pub(crate) cluster: LocalCluster,
    pub(crate) project: PathBuf,
}

impl Scene {
    pub(crate) async fn start(slots: &[u32]) -> Self {
        Self::start_with(ClusterOptions::containers(slots)).await
    }

    pub(crate) async fn start_with(options: ClusterOptions) -> Self {
        let cluster = LocalCluster::start_with(options).await;
        let project = cluster.directory().join("project");
        fs::create_dir(&project).expect("it is writable");
        Self { cluster, project }
    }

    /// Writes a file of the project.
    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.project.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("it is writable");
        fs::write(path, content).expect("it is writable");
    }

    /// The content of a file of the project, if it is there.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.project.join(path)).ok()
    }

    /// Writes a Compose file of one service with these keys.
    pub(crate) fn compose(&self, keys: &str) {
        self.write("compose.yaml", &format!("name: {PROJECT}\nservices:\n  job:\n{}", indented(keys)));
    }

    /// The same, on the base image, whose shell runs `script`.
    pub(crate) fn script(&self, script: &str, keys: &str) {
        let script = script.replace('$', "$$");
        let script: String = script.lines().map(|line| format!("    {line}\n")).collect();
        self.compose(&format!("image: {BASE}\n{keys}\ncommand:\n  - sh\n  - -c\n  - |\n{script}"));
    }

    /// A gate for the tasks, and the volume that makes it theirs.
    pub(crate) fn gate(&self, name: &str) -> (Gate, String) {
        let directory = self.cluster.directory().join(format!("gate-{name}"));
        fs::create_dir(&directory).expect("it is writable");
        let volume = format!("{0}:{0}", directory.display());
        (Gate::new(&directory, name), volume)
    }

    /// The running container of the job's rank.
    pub(crate) async fn container(&self, rank: u32) -> String {
        let id = self.cluster.job(JOB).await.id;
        let running = async || self.cluster.containers().of_rank(&id, rank);
        eventually(&format!("the container of rank {rank} runs"), running).await
    }

    /// `convoke` in the project's directory.
    pub(crate) fn convoke(&self, args: &[&str]) -> Cli {
        self.cluster.cli(args).directory(&self.project)
    }
}

/// Lines as keys of a service.
fn indented(keys: &str) -> String {
    keys.lines().map(|line| format!("    {line}\n")).collect()
}

/// Copies a directory with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("it is writable");
    for entry in fs::read_dir(from).expect("it is a directory").flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("it can be copied")),
        }
    }
}

//! What the stories share: a cluster with containers, a Compose file, and the end of an `up`.

use std::fs;
use std::path::PathBuf;

use convoke_tests::{ClusterOptions, Finished, LocalCluster};
use serde_json::Value;

pub(crate) const BASE: &str = "convoke-test/base:1";
pub(crate) const TORCH: &str = "convoke-test/torch:1";

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
        let options = ClusterOptions { slots: slots.to_vec(), containers: true, ..ClusterOptions::default() };
        let cluster = LocalCluster::start_with(options).await;
        let project = cluster.directory().join("project");
        fs::create_dir(&project).expect("it is writable");
        Self { cluster, project }
    }

    /// Writes `docker-compose.yml`: service `job` with these keys, the first of them on line 4.
    pub(crate) fn compose(&self, keys: &str) {
        let keys: String = keys.lines().map(|line| format!("    {line}\n")).collect();
        self.write("docker-compose.yml", &format!("name: story\nservices:\n  job:\n{keys}"));
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::write(self.project.join(name), content).expect("it is writable");
    }

    /// `convoke` in the project's directory.
    pub(crate) async fn convoke(&self, args: &[&str]) -> Finished {
        self.cluster.cli(args).directory(&self.project).run().await
    }

    /// `convoke up` fails with `code` and tells all of `words` at its end.
    pub(crate) async fn up_fails(&self, code: i32, words: &[&str]) {
        let up = self.convoke(&["up"]).await.expect_code(code);
        let told = up.stderr.split_once("\nerror: ").map(|(_, told)| told).unwrap_or_default();
        for word in words {
            assert!(told.contains(word), "no \"{word}\" in the error of:\n{}\n{}", up.stdout, up.stderr);
        }
    }

    /// The job as programs see it.
    pub(crate) async fn job(&self) -> Value {
        self.convoke(&["inspect", "story-job", "-o", "json"]).await.expect_code(0).json()
    }
}

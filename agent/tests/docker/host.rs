//! A Docker runtime of a test's own, on the engine of this host.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use convoke_agent::conditions::Conditions;
use convoke_agent::engine::images::Policy;
use convoke_agent::engine::{DEFAULT_SOCKET, Engine};
use convoke_agent::runtime::docker::DockerConfig;
use convoke_agent::runtime::{DockerRuntime, Runtime as _, TaskKey, TaskSpec, ended};
use convoke_agent::spool::{Line, Reader};
use convoke_model::{AgentInstance, Rank, TaskExit};
use tokio::time::{sleep, timeout};

#[path = "../support/task.rs"]
mod task;

use self::task::contained_task;

/// Built by tests/images/build.sh: a static busybox.
pub(super) const IMAGE: &str = "convoke-test/base:1";
/// Far more than anything here takes, on a host whose engine is busy; a test that needs it has failed.
pub(super) const DEADLINE: Duration = Duration::from_secs(120);

/// What the tests need and this host lacks.
pub(super) fn missing() -> Option<String> {
    block_on(async {
        let engine = match Engine::connect(Path::new(DEFAULT_SOCKET)).await {
            Ok(engine) => engine,
            Err(error) => return Some(error.to_string()),
        };
        match engine.docker().inspect_image(IMAGE).await {
            Ok(_) => None,
            Err(_) => Some(format!("no image {IMAGE}; build it with tests/images/build.sh base")),
        }
    })
}

pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

pub(super) struct Host {
    pub(super) dir: tempfile::TempDir,
    pub(super) instance: String,
    pub(super) runtime: DockerRuntime,
    pub(super) docker: Docker,
}

impl Host {
    pub(super) async fn new() -> Self {
        Self::behind(Path::new(DEFAULT_SOCKET)).await
    }

    /// One that reaches this host's engine by a socket of a test's own.
    pub(super) async fn behind(socket: &Path) -> Self {
        let instance = uuid::Uuid::new_v4().to_string();
        let dir = tempfile::tempdir().unwrap();
        let runtime = runtime(dir.path(), socket, &instance);
        let docker = runtime.reach(DEADLINE).await.unwrap().engine.docker().clone();
        Self { dir, instance, runtime, docker }
    }

    /// A runtime as a new agent on the same directory has it. The one before goes on beside it.
    pub(super) async fn another(&self) -> DockerRuntime {
        let another = runtime(self.dir.path(), Path::new(DEFAULT_SOCKET), &self.instance);
        another.recover().await.unwrap();
        another
    }

    /// A runtime as a new agent has it whose engine is not there before something is at the path.
    pub(super) async fn without_engine(&self) -> (DockerRuntime, PathBuf) {
        let socket = self.dir.path().join("late.sock");
        let another = runtime(self.dir.path(), &socket, &self.instance);
        another.recover().await.unwrap();
        (another, socket)
    }

    /// A runtime with the same containers and none of the directories.
    pub(super) async fn forgetful(&self) -> DockerRuntime {
        let another = runtime(&self.dir.path().join("other"), Path::new(DEFAULT_SOCKET), &self.instance);
        another.reach(DEADLINE).await.unwrap();
        another
    }

    /// Makes a container that is nobody's, and does not start it.
    pub(super) async fn stranger(&self, name: &str) -> String {
        let labels = [("convoke-test.stranger".to_owned(), self.instance.clone())];
        let body = ContainerCreateBody {
            image: Some(IMAGE.to_owned()),
            labels: Some(labels.into()),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        self.docker.create_container(Some(options), body).await.unwrap();
        name.to_owned()
    }

    pub(super) fn spec(&self, rank: u32, command: &[&str]) -> TaskSpec {
        let name = format!("convoke-test-{}-{rank}", self.instance);
        let mut spec = contained_task(&name, IMAGE, command);
        spec.key.rank = Rank(rank);
        spec
    }

    pub(super) async fn start(&self, rank: u32, script: &str) -> TaskKey {
        self.start_spec(self.spec(rank, &["sh", "-c", script])).await
    }

    pub(super) async fn start_spec(&self, spec: TaskSpec) -> TaskKey {
        let task = spec.key.clone();
        self.runtime.start(spec).await.unwrap();
        task
    }

    pub(super) async fn ended(&self, task: &TaskKey) -> TaskExit {
        timeout(DEADLINE, ended(&self.runtime, task)).await.expect("the task ends").expect("it is known")
    }

    /// All lines of a task that has ended.
    pub(super) fn lines(&self, task: &TaskKey) -> Vec<Line> {
        let batch = Reader::new(self.runtime.task_dir(task).output(), 0).read(usize::MAX).unwrap();
        assert!(batch.ended);
        batch.lines
    }

    pub(super) fn texts(&self, task: &TaskKey) -> Vec<String> {
        self.lines(task).into_iter().map(|line| line.text).collect()
    }

    /// Waits until the task has said `text`.
    pub(super) async fn until_line(&self, task: &TaskKey, text: &str) {
        let mut reader = Reader::new(self.runtime.task_dir(task).output(), 0);
        let said = async {
            while !reader.read(usize::MAX).unwrap().lines.iter().any(|l| l.text == text) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(DEADLINE, said).await.expect("the task says it");
    }

    /// Names of this test's containers, in any state.
    pub(super) async fn containers(&self) -> Vec<String> {
        containers(&self.docker, &format!("convoke.instance={}", self.instance)).await
    }

    pub(super) fn directories(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("tasks")).map_or(0, Iterator::count)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        clear(&format!("convoke.instance={}", self.instance));
        clear(&format!("convoke-test.stranger={}", self.instance));
    }
}

fn runtime(dir: &Path, socket: &Path, instance: &str) -> DockerRuntime {
    std::fs::create_dir_all(dir).unwrap();
    DockerRuntime::new(DockerConfig {
        tasks_dir: dir.join("tasks"),
        socket: socket.to_owned(),
        seen_file: dir.join("docker"),
        gpu_injection: None,
        instance: AgentInstance::new(instance).unwrap(),
        output_limit: 64 << 20,
        conditions: Conditions::default(),
        images_file: dir.join("images.json"),
        image_policy: Policy { unused_for: DEADLINE, keep_free: 0 },
    })
}

pub(super) async fn containers(docker: &Docker, label: &str) -> Vec<String> {
    let filters = HashMap::from([("label", vec![label.to_owned()])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    let found = docker.list_containers(Some(options)).await.unwrap();
    found.into_iter().map(|c| c.names.unwrap_or_default().join(",")).collect()
}

/// Removes every container with the label, whatever became of the test.
pub(super) fn clear(label: &str) {
    let label = label.to_owned();
    let clearing = std::thread::spawn(move || {
        block_on(async {
            let engine = Engine::connect(Path::new(DEFAULT_SOCKET)).await.unwrap();
            for name in containers(engine.docker(), &label).await {
                let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
                // It may be going just now.
                engine.docker().remove_container(name.trim_start_matches('/'), Some(options)).await.ok();
            }
        });
    });
    clearing.join().ok();
}

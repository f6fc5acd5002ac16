//! An engine that goes away: a private one, in a network namespace of its own so that it does not touch
//! the host's bridge.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bollard::query_parameters::ImportImageOptions;
use bollard::{Docker, body_full};
use convoke_agent::engine::{DEFAULT_SOCKET, Engine};
use convoke_model::{ExitStatus, ObservedReplica, ObservedState, TaskExit, TaskPhase};
use futures::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use super::host::{DEADLINE, IMAGE, block_on};
use super::lives::{World, contained};
use super::support::running;

/// A dockerd of a test's own.
struct PrivateEngine {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl PrivateEngine {
    async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("convoke-dockerd-").tempdir().unwrap();
        let mut engine = Self { dir, child: None };
        engine.start_again().await;
        // Its one image, from the host's engine.
        let host = Engine::connect(Path::new(DEFAULT_SOCKET)).await.unwrap();
        let saved: Vec<_> = host.docker().export_image(IMAGE).map(Result::unwrap).collect().await;
        let docker = engine.docker().await;
        let loading =
            docker.import_image(ImportImageOptions::default(), body_full(saved.concat().into()), None);
        let loaded: Vec<_> = loading.collect().await;
        loaded.into_iter().for_each(|step| drop(step.unwrap()));
        engine
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    async fn docker(&self) -> Docker {
        Engine::connect(&self.socket()).await.unwrap().docker().clone()
    }

    async fn start_again(&mut self) {
        let path = |name: &str| self.dir.path().join(name);
        fs::write(path("daemon.json"), "{}").unwrap();
        let log = File::options().create(true).append(true).open(path("log")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "dockerd", "--bridge=none", "--iptables=false", "--ip6tables=false"]);
        command.arg("--storage-driver=vfs").arg("--config-file").arg(path("daemon.json"));
        command.arg("--data-root").arg(path("data")).arg("--exec-root").arg(path("exec"));
        command.arg("--pidfile").arg(path("pid")).arg("--host");
        command.arg(format!("unix://{}", self.socket().display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let up = async {
            while Engine::connect(&self.socket()).await.is_err() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(DEADLINE, up).await.expect("a private dockerd starts");
    }

    /// As `systemctl stop docker` does.
    fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        child.wait().unwrap();
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.stop();
        }
    }
}

fn is_down(observed: &ObservedState) -> bool {
    observed.conditions.iter().any(|condition| condition.name == "DockerDown")
}

fn exit(replica: &ObservedReplica) -> Option<TaskExit> {
    match &replica.tasks[0].phase {
        TaskPhase::Exited(exit) => Some(exit.clone()),
        TaskPhase::Waiting | TaskPhase::Running { .. } => None,
    }
}

pub(super) fn an_engine_that_stops_takes_its_containers_and_is_told_so() {
    block_on(async {
        let mut engine = PrivateEngine::start().await;
        let world = World::on(engine.socket().to_str().unwrap()).await;
        let _agent = world.agent();
        // Ends well when asked: no success all the same.
        let replica =
            contained("j", &["cpu-0"], "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done");
        world.coordinator.want(&[running(&replica)]);
        world.until_said(&replica, 0, "ready").await;
        engine.stop();
        let down = |m: &super::support::Memory| m.observed.as_ref().filter(|o| is_down(o)).cloned();
        let observed = world.coordinator.wait("DockerDown", down).await;
        let task = &observed.replicas[0].tasks[0];
        assert!(matches!(task.phase, TaskPhase::Running { .. }), "nobody knows better: {task:?}");
        engine.start_again().await;
        let exit = world.coordinator.wait_replica(&replica, "the end", exit).await;
        assert_eq!((exit.status, exit.stopped), (ExitStatus::Unknown, false));
        assert!(exit.message.unwrap().contains("the Docker Engine stopped or restarted"));
        let up = |m: &super::support::Memory| m.observed.as_ref().is_some_and(|o| !is_down(o)).then_some(());
        world.coordinator.wait("no condition", up).await;
        world.coordinator.want(&[]);
        world.coordinator.wait("removal", |m| m.observed.as_ref()?.replicas.is_empty().then_some(())).await;
    });
}

pub(super) fn an_agent_that_starts_before_its_engine_finds_its_tasks_when_it_is_back() {
    block_on(async {
        let mut engine = PrivateEngine::start().await;
        let world = World::on(engine.socket().to_str().unwrap()).await;
        let agent = world.agent();
        let replica = contained("j", &["cpu-0"], "echo ready; exec sleep 600");
        world.coordinator.want(&[running(&replica)]);
        world.until_said(&replica, 0, "ready").await;
        agent.kill();
        engine.stop();
        world.coordinator.memory().observed = None;
        let _agent = world.agent();
        let down = |m: &super::support::Memory| m.observed.as_ref().filter(|o| is_down(o)).cloned();
        let observed = world.coordinator.wait("DockerDown", down).await;
        assert_eq!(observed.replicas.len(), 1, "known by its files");
        // What is wanted of it now waits for the engine.
        engine.start_again().await;
        let exit = world.coordinator.wait_replica(&replica, "the end", exit).await;
        assert!(!exit.status.is_success(), "{exit:?}");
        world.coordinator.want(&[]);
        world.coordinator.wait("removal", |m| m.observed.as_ref()?.replicas.is_empty().then_some(())).await;
    });
}

//! An engine that goes away: a private one, in a network namespace of its own so that it does not touch
//! the host's bridge.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bollard::body_full;
use bollard::query_parameters::ImportImageOptions;
use convoke_agent::engine::{DEFAULT_SOCKET, Engine};
use convoke_model::{ExitStatus, ObservedReplica, ObservedState, TaskExit, TaskPhase};
use futures::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use super::host::{DEADLINE, IMAGE, block_on};
use super::lives::{COUNT, World, contained, counted};
use super::support::{Memory, running, stopped, until};

/// What an engine of one's own needs and this host lacks.
pub(super) fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root can start an engine of its own".to_owned());
    }
    let lacks = |program: &&&str| {
        Command::new(**program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err()
    };
    ["dockerd", "containerd", "unshare", "nsenter"].iter().find(lacks).map(|program| format!("no {program}"))
}

/// A dockerd of a test's own, and the containerd below it, which outlives it as on any host.
struct PrivateEngine {
    dir: tempfile::TempDir,
    /// Leads the namespaces of both: what they mount, and their network, end with it.
    containerd: Child,
    dockerd: Option<Child>,
}

const CONTAINERD: &str = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";

impl PrivateEngine {
    async fn start(config: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("convoke-dockerd-").tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("daemon.json"), config).unwrap();
        fs::write(path("containerd.toml"), CONTAINERD).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--", "containerd", "--config"]).arg(path("containerd.toml"));
        command.arg("--address").arg(path("containerd.sock"));
        command.arg("--root").arg(path("root")).arg("--state").arg(path("state"));
        let containerd = logged(&mut command, &path("containerd.log"));
        let mut engine = Self { dir, containerd, dockerd: None };
        until("containerd", || engine.path("containerd.sock").exists().then_some(())).await;
        engine.start_again().await;
        // Its one image, from the host's engine.
        let host = Engine::connect(Path::new(DEFAULT_SOCKET)).await.unwrap();
        let saved: Vec<_> = host.docker().export_image(IMAGE).map(Result::unwrap).collect().await;
        let docker = Engine::connect(&engine.socket()).await.unwrap();
        let body = body_full(saved.concat().into());
        let loading = docker.docker().import_image(ImportImageOptions::default(), body, None);
        loading.for_each(async |step| drop(step.unwrap())).await;
        engine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("docker.sock")
    }

    async fn start_again(&mut self) {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.containerd.id())).args(["--net", "--mount", "--", "dockerd"]);
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs"]);
        command.arg("--containerd").arg(self.path("containerd.sock"));
        command.arg("--config-file").arg(self.path("daemon.json"));
        command.arg("--data-root").arg(self.path("data")).arg("--exec-root").arg(self.path("exec"));
        command.arg("--pidfile").arg(self.path("pid"));
        command.arg("--host").arg(format!("unix://{}", self.socket().display()));
        self.dockerd = Some(logged(&mut command, &self.path("dockerd.log")));
        let up = async {
            while Engine::connect(&self.socket()).await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(DEADLINE, up).await.expect("a private dockerd starts");
    }

    /// As `systemctl stop docker` does.
    fn stop(&mut self) {
        self.signal(Signal::TERM);
    }

    fn signal(&mut self, signal: Signal) {
        end(&mut self.dockerd.take().unwrap(), signal);
    }
}

impl Drop for PrivateEngine {
    /// The agent has removed its containers by now, or they end with their engine.
    fn drop(&mut self) {
        if self.dockerd.is_some() {
            self.stop();
        }
        end(&mut self.containerd, Signal::TERM);
    }
}

fn logged(command: &mut Command, log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn end(child: &mut Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
    child.wait().unwrap();
}

/// Which is no success when it was the engine that asked.
const ENDS_WELL_WHEN_ASKED: &str = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done";

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
        let mut engine = PrivateEngine::start("{}").await;
        let world = World::on(engine.socket().to_str().unwrap()).await;
        let _agent = world.agent();
        // Ends well when asked: no success all the same.
        let replica =
            contained("j", &["cpu-0"], "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done");
        world.coordinator.want(&[running(&replica)]);
        world.until_said(&replica, 0, "ready").await;
        engine.stop();
        let down = |m: &Memory| m.observed.as_ref().filter(|o| is_down(o)).cloned();
        let observed = world.coordinator.wait("DockerDown", down).await;
        let task = &observed.replicas[0].tasks[0];
        assert!(matches!(task.phase, TaskPhase::Running { .. }), "nobody knows better: {task:?}");
        engine.start_again().await;
        let exit = world.coordinator.wait_replica(&replica, "the end", exit).await;
        assert_eq!((exit.status, exit.stopped), (ExitStatus::Unknown, false));
        assert!(exit.message.unwrap().contains("the Docker Engine stopped or restarted"));
        let up = |m: &Memory| m.observed.as_ref().is_some_and(|o| !is_down(o)).then_some(());
        world.coordinator.wait("no condition", up).await;
        world.coordinator.want(&[]);
        world.coordinator.wait("removal", |m| m.observed.as_ref()?.replicas.is_empty().then_some(())).await;
    });
}

pub(super) fn an_engine_with_live_restore_comes_back_to_running_containers() {
    block_on(async {
        let mut engine = PrivateEngine::start(r#"{"live-restore": true}"#).await;
        let world = World::on(engine.socket().to_str().unwrap()).await;
        let _agent = world.agent();
        let replica = contained("j", &["cpu-0"], COUNT);
        world.coordinator.want(&[running(&replica)]);
        let pids = world.pids(&replica).await;
        world.until_said(&replica, 0, "100").await;
        engine.stop();
        let down = |m: &Memory| m.observed.as_ref().filter(|o| is_down(o)).cloned();
        world.coordinator.wait("DockerDown", down).await;
        engine.start_again().await;
        world.until_said(&replica, 0, "1000").await;
        assert_eq!(world.pids(&replica).await, pids);
        world.coordinator.want(&[stopped(&replica, 100)]);
        let exits = world.ended(&replica).await;
        assert!(exits[0].stopped, "{exits:?}");
        assert!(counted(&world.output(&replica, 0)) >= 1000);
    });
}

pub(super) fn an_engine_that_is_killed_takes_its_containers_when_it_is_back() {
    block_on(async {
        let mut engine = PrivateEngine::start("{}").await;
        let world = World::on(engine.socket().to_str().unwrap()).await;
        let _agent = world.agent();
        let replica = contained("j", &["cpu-0"], "echo ready; exec sleep 600");
        world.coordinator.want(&[running(&replica)]);
        world.until_said(&replica, 0, "ready").await;
        engine.signal(Signal::KILL);
        let down = |m: &Memory| m.observed.as_ref().filter(|o| is_down(o)).cloned();
        world.coordinator.wait("DockerDown", down).await;
        engine.start_again().await;
        let exit = world.coordinator.wait_replica(&replica, "the end", exit).await;
        assert_eq!((exit.status, exit.stopped), (ExitStatus::Unknown, false));
        assert!(exit.message.unwrap().contains("the Docker Engine stopped or restarted"));
    });
}

pub(super) fn what_ended_with_its_engine_while_no_agent_was_there_is_no_success() {
    block_on(async {
        let mut engine = PrivateEngine::start("{}").await;
        let world = World::on(engine.socket().to_str().unwrap()).await;
        // A killed engine asks its containers to end when it is back.
        for (job, signal) in [("stopped", Signal::TERM), ("killed", Signal::KILL)] {
            let agent = world.agent();
            let replica = contained(job, &["cpu-0"], ENDS_WELL_WHEN_ASKED);
            world.coordinator.want(&[running(&replica)]);
            world.until_said(&replica, 0, "ready").await;
            agent.kill();
            engine.signal(signal);
            world.coordinator.memory().observed = None;
            engine.start_again().await;
            let agent = world.agent();
            let exit = world.coordinator.wait_replica(&replica, "the end", exit).await;
            assert_eq!((exit.status, exit.stopped), (ExitStatus::Unknown, false), "{job}");
            assert!(exit.message.unwrap().contains("while no agent was there (exit code 0)"));
            world.coordinator.want(&[]);
            world
                .coordinator
                .wait("removal", |m| m.observed.as_ref()?.replicas.is_empty().then_some(()))
                .await;
            agent.kill();
        }
    });
}

pub(super) fn an_agent_that_starts_before_its_engine_finds_its_tasks_when_it_is_back() {
    block_on(async {
        let mut engine = PrivateEngine::start("{}").await;
        let world = World::on(engine.socket().to_str().unwrap()).await;
        let agent = world.agent();
        let replica = contained("j", &["cpu-0"], ENDS_WELL_WHEN_ASKED);
        world.coordinator.want(&[running(&replica)]);
        world.until_said(&replica, 0, "ready").await;
        agent.kill();
        engine.stop();
        world.coordinator.memory().observed = None;
        let _agent = world.agent();
        let down = |m: &Memory| m.observed.as_ref().filter(|o| is_down(o)).cloned();
        let observed = world.coordinator.wait("DockerDown", down).await;
        assert_eq!(observed.replicas.len(), 1, "known by its files");
        // What is wanted of it now waits for the engine.
        engine.start_again().await;
        let exit = world.coordinator.wait_replica(&replica, "the end", exit).await;
        assert_eq!(exit.status, ExitStatus::Unknown, "{exit:?}");
        world.coordinator.want(&[]);
        world.coordinator.wait("removal", |m| m.observed.as_ref()?.replicas.is_empty().then_some(())).await;
    });
}

//! A container's life through the agent: prepared, started, watched over its agent's death, removed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::CreateContainerOptionsBuilder;
use convoke_agent::engine::{DEFAULT_SOCKET, Engine};
use convoke_model::{
    DesiredReplica, ExitStatus, Mount, MountKind, ObservedReplica, ReplicaPhase, RuntimeKind, TaskExit,
    TaskPhase,
};
use convoke_proto::v1;

use super::host::{IMAGE, block_on, clear, containers};
use super::support::{Coordinator, Site, running, shell, stopped, until};

/// A coordinator, a place for agents, and the engine.
pub(super) struct World {
    pub(super) coordinator: Coordinator,
    pub(super) site: Site,
    socket: String,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::on(DEFAULT_SOCKET).await
    }

    pub(super) async fn on(socket: &str) -> Self {
        Self { coordinator: Coordinator::start().await, site: Site::new(), socket: socket.to_owned() }
    }

    pub(super) fn agent(&self) -> super::support::Agent {
        self.site.agent_with(&self.coordinator.url(), &["--docker-socket", &self.socket])
    }

    /// The label of this agent's containers.
    pub(super) fn label(&self) -> String {
        let file = fs::read(self.site.state().join("agent.json")).unwrap();
        let identity: serde_json::Value = serde_json::from_slice(&file).unwrap();
        format!("convoke.instance={}", identity["instance"].as_str().unwrap())
    }

    async fn docker(&self) -> Docker {
        Engine::connect(Path::new(&self.socket)).await.unwrap().docker().clone()
    }

    pub(super) async fn containers(&self) -> Vec<String> {
        containers(&self.docker().await, &self.label()).await
    }

    /// What a rank printed or measured, as the coordinator has it.
    pub(super) fn lines(&self, replica: &DesiredReplica, rank: u32, kind: v1::StreamKind) -> Vec<String> {
        let stream = (replica.job.to_string(), replica.generation.0, rank, kind.into());
        self.coordinator.memory().lines.get(&stream).cloned().unwrap_or_default()
    }

    pub(super) fn output(&self, replica: &DesiredReplica, rank: u32) -> Vec<String> {
        self.lines(replica, rank, v1::StreamKind::Output)
    }

    pub(super) async fn until_said(&self, replica: &DesiredReplica, rank: u32, text: &str) {
        let said = || self.output(replica, rank).iter().any(|line| line == text).then_some(());
        until(&format!("rank {rank} to say {text}"), said).await;
    }

    /// The first processes of the replica's containers, once they are known.
    pub(super) async fn pids(&self, replica: &DesiredReplica) -> Vec<u32> {
        let pid = |phase: &TaskPhase| match phase {
            TaskPhase::Running { pid, .. } if *pid > 0 => Some(*pid),
            TaskPhase::Running { .. } | TaskPhase::Waiting | TaskPhase::Exited(_) => None,
        };
        let all = |r: &ObservedReplica| r.tasks.iter().map(|task| pid(&task.phase)).collect();
        self.coordinator.wait_replica(replica, "process ids", all).await
    }

    /// The ends of the replica's tasks, once their lines are here.
    pub(super) async fn ended(&self, replica: &DesiredReplica) -> Vec<TaskExit> {
        let exits = self.coordinator.wait_replica(replica, "the end", ended).await;
        let stream = |m: &super::support::Memory| {
            let key =
                |rank| (replica.job.to_string(), replica.generation.0, rank, v1::StreamKind::Output.into());
            (0..u32::try_from(exits.len()).unwrap()).all(|rank| m.ended.contains(&key(rank))).then_some(())
        };
        self.coordinator.wait("the last lines", stream).await;
        exits
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if self.socket == DEFAULT_SOCKET && self.site.state().join("agent.json").exists() {
            clear(&self.label());
        }
    }
}

/// One rank per device, each running `script` in a container.
pub(super) fn contained(job: &str, devices: &[&str], script: &str) -> DesiredReplica {
    let mut replica = shell(job, 1, devices, script);
    replica.spec.image = Some(IMAGE.to_owned());
    replica.spec.command = ["sh", "-c", script].map(str::to_owned).to_vec();
    replica
}

/// The exits of a replica that has ended.
fn ended(replica: &ObservedReplica) -> Option<Vec<TaskExit>> {
    let exit = |phase: &TaskPhase| match phase {
        TaskPhase::Exited(exit) => Some(exit.clone()),
        TaskPhase::Waiting | TaskPhase::Running { .. } => None,
    };
    let exits = replica.tasks.iter().map(|task| exit(&task.phase)).collect();
    (replica.phase == ReplicaPhase::Ended).then_some(exits).flatten()
}

fn codes(exits: &[TaskExit]) -> Vec<ExitStatus> {
    exits.iter().map(|exit| exit.status).collect()
}

pub(super) fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    let source = source.display().to_string();
    Mount { kind: MountKind::Bind, source, target: target.to_owned(), read_only, content: None, shared: None }
}

pub(super) fn a_job_runs_in_containers_and_leaves_nothing() {
    block_on(async {
        let world = World::new().await;
        let _agent = world.agent();
        let script =
            "echo $RANK of $WORLD_SIZE at $MASTER_ADDR; echo $NVIDIA_VISIBLE_DEVICES >&2; exit $RANK";
        let replica = contained("j", &["cpu-0", "cpu-1"], script);
        world.coordinator.want(&[running(&replica)]);
        let exits = world.ended(&replica).await;
        assert_eq!(codes(&exits), [ExitStatus::Code(0), ExitStatus::Code(1)]);
        assert!(world.output(&replica, 1).contains(&"1 of 2 at 127.0.0.1".to_owned()));
        let node: v1::NodeInfo = world.coordinator.memory().hellos[0].node.clone().unwrap();
        let node = convoke_model::NodeInfo::try_from(node).unwrap();
        assert!(node.runtimes.contains(&RuntimeKind::Docker));
        assert!(node.engine.unwrap().starts_with("Docker Engine "));
        world.coordinator.want(&[]);
        world.coordinator.wait("removal", |m| m.observed.as_ref()?.replicas.is_empty().then_some(())).await;
        assert_eq!(world.containers().await, Vec::<String>::new());
        for directory in ["tasks", "replicas", "s"] {
            assert_eq!(fs::read_dir(world.site.state().join(directory)).unwrap().count(), 0, "{directory}");
        }
    });
}

pub(super) fn any_user_of_a_container_finds_its_places_writable() {
    block_on(async {
        let world = World::new().await;
        let _agent = world.agent();
        let script = "set -e; test -w $CONVOKE_SOCKET; test -w $PWD/; echo x > $PET_LOG_DIR/log; \
                      echo '{\"step\":1,\"loss\":2}' >> $CONVOKE_METRICS; \
                      mkdir $CONVOKE_CHECKPOINT_DIR/new; echo w > $CONVOKE_CHECKPOINT_DIR/new/w; \
                      mv $CONVOKE_CHECKPOINT_DIR/new $CONVOKE_CHECKPOINT_DIR/step-1; echo all written";
        let mut replica = contained("j", &["cpu-0", "cpu-1"], script);
        replica.spec.layout = convoke_model::RankLayout::PerNode;
        replica.spec.container.user = Some("12345:54321".to_owned());
        replica.spec.working_dir = Some("/tmp".to_owned());
        replica.spec.container.tmpfs = vec!["/tmp:mode=1777".to_owned()];
        world.coordinator.want(&[running(&replica)]);
        let exits = world.ended(&replica).await;
        assert_eq!(codes(&exits), [ExitStatus::Code(0)], "{:?}", world.output(&replica, 0));
        let measured = |_: &_| world.lines(&replica, 0, v1::StreamKind::Metrics).first().cloned();
        assert_eq!(until("the metrics", || measured(&())).await, "{\"step\":1,\"loss\":2}");
        let stored = world.coordinator.wait("the checkpoint", |m| m.uploads.values().next().cloned()).await;
        assert_eq!(stored, [("w".to_owned(), b"w\n".to_vec())]);
    });
}

pub(super) fn checkpoints_below_a_mount_are_read_where_the_host_has_them() {
    block_on(async {
        let world = World::new().await;
        let _agent = world.agent();
        let work = world.site.path("work");
        fs::create_dir(&work).unwrap();
        let script = "set -e; cd $CONVOKE_CHECKPOINT_DIR; pwd; mkdir new; echo w > new/w; mv new step-7";
        let mut mounted = contained("mounted", &["cpu-0"], script);
        mounted.spec.container.volumes = vec![bind(&work, "/w", false)];
        mounted.spec.working_dir = Some("/w/sub".to_owned());
        mounted.spec.checkpoint.dir = Some("../ckpt".to_owned());
        let mut own = contained("own", &["cpu-1"], script);
        own.spec.checkpoint.dir = Some("/elsewhere/ckpt".to_owned());
        world.coordinator.want(&[running(&mounted), running(&own)]);
        for (replica, directory) in [(&mounted, "/w/ckpt"), (&own, "/elsewhere/ckpt")] {
            assert_eq!(codes(&world.ended(replica).await), [ExitStatus::Code(0)]);
            assert_eq!(world.output(replica, 0), [directory]);
        }
        world.coordinator.wait("both checkpoints", |m| (m.uploads.len() == 2).then_some(())).await;
        assert_eq!(fs::read_to_string(work.join("ckpt/step-7/w")).unwrap(), "w\n");

        let mut refused = contained("refused", &["cpu-2"], script);
        refused.spec.container.volumes = vec![bind(&work, "/w", true)];
        refused.spec.checkpoint.dir = Some("/w/ckpt".to_owned());
        world.coordinator.want(&[refused.clone()]);
        let message = |r: &ObservedReplica| match &r.phase {
            ReplicaPhase::Refused { message, retryable: false, .. } => Some(message.clone()),
            _ => None,
        };
        let message = world.coordinator.wait_replica(&refused, "a refusal", message).await;
        assert!(message.contains("/w, which is read-only"), "{message}");
    });
}

pub(super) fn a_replica_with_its_own_network_meets_at_loopback() {
    block_on(async {
        let world = World::new().await;
        let _agent = world.agent();
        let script = "echo $MASTER_ADDR $NCCL_SOCKET_IFNAME; [ $RANK = 0 ] && exec nc -l -p $MASTER_PORT -e echo met; \
                      until nc $MASTER_ADDR $MASTER_PORT 2>/dev/null; do sleep 0.1; done";
        let mut replica = contained("j", &["cpu-0", "cpu-1"], script);
        replica.spec.container.network_mode = Some("bridge".to_owned());
        world.coordinator.want(&[running(&replica)]);
        assert_eq!(codes(&world.ended(&replica).await), [ExitStatus::Code(0), ExitStatus::Code(0)]);
        assert_eq!(world.output(&replica, 1), ["127.0.0.1", "met"]);
        let held = |r: &ObservedReplica| match r.phase {
            ReplicaPhase::Ready { address, .. } => Some(address),
            _ => None,
        };
        let mut ready = contained("k", &["cpu-2"], "true");
        ready.spec.container.network_mode = Some("bridge".to_owned());
        world.coordinator.want(&[ready.clone()]);
        assert!(world.coordinator.wait_replica(&ready, "ready", held).await.is_loopback());
    });
}

/// The numbers that a rank counted, which must be without gap or repeat.
pub(super) fn counted(lines: &[String]) -> usize {
    let numbers: Vec<usize> = lines.iter().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.iter().enumerate().all(|(i, n)| *n == i + 1), "{lines:?}");
    numbers.len()
}

pub(super) const COUNT: &str =
    "i=0; while :; do i=$((i+1)); echo $i; [ $((i % 20)) = 0 ] && sleep 0.05; done";

pub(super) fn a_killed_agent_finds_its_containers_again_and_their_lines_go_on() {
    block_on(async {
        let world = World::new().await;
        let agent = world.agent();
        let replica = contained("j", &["cpu-0", "cpu-1"], COUNT);
        world.coordinator.want(&[running(&replica)]);
        let pids = world.pids(&replica).await;
        world.until_said(&replica, 1, "100").await;
        let mut agent = agent;
        for reached in ["400", "700"] {
            agent.kill();
            world.coordinator.memory().observed = None;
            agent = world.agent();
            assert_eq!(world.pids(&replica).await, pids, "nothing was started again");
            world.until_said(&replica, 1, reached).await;
        }
        // Its devices are still taken: another replica waits for them, and gets them after the stop.
        let other = contained("k", &["cpu-1"], "exit 0");
        world.coordinator.want(&[stopped(&replica, 100), running(&other)]);
        world.coordinator.wait_replica(&other, "the other's end", ended).await;
        let exits = world.ended(&replica).await;
        assert!(exits.iter().all(|exit| exit.stopped), "{exits:?}");
        for rank in [0, 1] {
            assert!(counted(&world.output(&replica, rank)) >= 100);
        }
        drop(agent);
    });
}

pub(super) fn a_container_that_ended_while_no_agent_was_there_is_reported() {
    block_on(async {
        let world = World::new().await;
        let agent = world.agent();
        let go = world.site.path("go");
        fs::create_dir(&go).unwrap();
        let script = "seq 1 10; until [ -e /go/now ]; do sleep 0.05; done; seq 11 2000; exit 7";
        let mut replica = contained("j", &["cpu-0"], script);
        replica.spec.container.volumes = vec![bind(&go, "/go", true)];
        world.coordinator.want(&[running(&replica)]);
        world.until_said(&replica, 0, "10").await;
        agent.kill();
        fs::write(go.join("now"), "").unwrap();
        let docker = world.docker().await;
        let name = world.containers().await.remove(0);
        let over = async {
            let name = name.trim_start_matches('/');
            while docker.inspect_container(name, None).await.unwrap().state.unwrap().running == Some(true) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(super::host::DEADLINE, over).await.unwrap();
        let _agent = world.agent();
        assert_eq!(codes(&world.ended(&replica).await), [ExitStatus::Code(7)]);
        assert_eq!(counted(&world.output(&replica, 0)), 2000);
    });
}

pub(super) fn an_agent_that_nobody_wants_any_more_takes_its_containers_along() {
    block_on(async {
        let mut world = World::new().await;
        let agent = world.agent();
        let replica = contained("j", &["cpu-0", "cpu-1"], "exec sleep 600");
        world.coordinator.want(&[running(&replica)]);
        world.pids(&replica).await;
        assert_eq!(world.containers().await.len(), 2);
        world.site.let_go();
        agent.exited().await;
        assert_eq!(world.containers().await, Vec::<String>::new());
    });
}

pub(super) fn strangers_and_other_agents_containers_are_left_alone() {
    block_on(async {
        let (world, neighbour) = (World::new().await, World::new().await);
        let (agent, _theirs) = (world.agent(), neighbour.agent());
        let replica = contained("j", &["cpu-0"], "exec sleep 600");
        for each in [&world, &neighbour] {
            each.coordinator.want(&[running(&replica)]);
            each.coordinator.wait_running(&replica).await;
        }
        let docker = world.docker().await;
        let stranger = format!("convoke-test-stranger-{}", uuid::Uuid::new_v4());
        let create = |name: &str, labels: &[(&str, &str)]| {
            let body = ContainerCreateBody {
                image: Some(IMAGE.to_owned()),
                labels: Some(labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()),
                ..ContainerCreateBody::default()
            };
            let options = CreateContainerOptionsBuilder::default().name(name).build();
            let docker = docker.clone();
            async move { docker.create_container(Some(options), body).await.unwrap() }
        };
        let mark = format!("convoke-test.stranger={stranger}");
        create(&stranger, &[("convoke-test.stranger", &stranger)]).await;
        // What a crash left of a start of this agent's.
        let label = world.label();
        let instance = label.split_once('=').unwrap().1;
        let crashed = [
            ("convoke.instance", instance),
            ("convoke.job", "crashed"),
            ("convoke.generation", "1"),
            ("convoke.node-rank", "0"),
            ("convoke.rank", "0"),
        ];
        create(&format!("{stranger}-crashed"), &crashed).await;
        agent.kill();
        let _agent = world.agent();
        world.coordinator.want(&[]);
        world.coordinator.wait("removal", |m| m.observed.as_ref()?.replicas.is_empty().then_some(())).await;
        let left = (world.containers().await, neighbour.containers().await.len());
        assert_eq!(left, (Vec::new(), 1));
        assert_eq!(containers(&docker, &mark).await.len(), 1);
        clear(&mark);
        neighbour.coordinator.wait_running(&replica).await;
    });
}

//! Two hosts as far as containers can tell: a network and a Docker Engine each.

use std::path::Path;

use convoke_proto::v1;
use convoke_tests::process::Process;
use convoke_tests::{ClusterOptions, LocalCluster, docker, eventually, procfs, repository};

use super::namespaces::Networks;
use super::needs::BASE;
use super::scene::{JOB, Scene};

/// A dockerd without images, in a network namespace.
struct Engine {
    dockerd: Process,
    socket: String,
}

/// Where the engines have everything; nothing of it runs or is mounted once it is dropped.
struct Home(tempfile::TempDir);

impl Drop for Home {
    fn drop(&mut self) {
        procfs::kill_all(&procfs::mentioning(&self.0.path().display().to_string()));
        procfs::unmount_below(self.0.path());
    }
}

impl Engine {
    async fn start(directory: &Path, node: &str, namespace: &str) -> Self {
        let path = |name: &str| directory.join(format!("{node}{name}")).display().to_string();
        let socket = path(".sock");
        // Not the host's own, which may say other things.
        std::fs::write(path(".json"), "{}").expect("it is writable");
        let args = [
            format!("--net=/run/netns/{namespace}"),
            "--".to_owned(),
            "dockerd".to_owned(),
            format!("--config-file={}", path(".json")),
            format!("--host=unix://{socket}"),
            format!("--data-root={}", path(".data")),
            format!("--exec-root={}", path(".exec")),
            format!("--pidfile={}", path(".pid")),
            "--bridge=none".to_owned(),
            "--iptables=false".to_owned(),
            "--ip6tables=false".to_owned(),
        ];
        let mut dockerd = Process::start(Path::new("nsenter"), &args, Path::new(&path(".log")));
        eventually(&format!("the engine of {node} is there"), async || {
            assert!(dockerd.ended().is_none(), "{}", dockerd.log());
            std::os::unix::net::UnixStream::connect(&socket).ok()
        })
        .await;
        Self { dockerd, socket }
    }

    fn images(&self) -> String {
        docker(&[
            "--host",
            &format!("unix://{}", self.socket),
            "images",
            "--format",
            "{{.Repository}}:{{.Tag}}",
        ])
    }

    async fn stop(mut self) {
        self.dockerd.terminate("dockerd").await;
    }
}

/// Two nodes that share nothing but a network.
struct Hosts {
    engines: Vec<Engine>,
    scene: Scene,
    networks: Networks,
    _home: Home,
}

impl Hosts {
    async fn start(slots: u32) -> Self {
        let networks = Networks::new();
        let home = Home(tempfile::Builder::new().prefix("convoke-engines-").tempdir().expect("a directory"));
        let mut engines = Vec::new();
        for node in 0..2 {
            engines.push(Engine::start(home.0.path(), &LocalCluster::node(node), &networks.name(node)).await);
        }
        assert!(engines.iter().all(|engine| engine.images().is_empty()), "engines begin with nothing");
        let scene = Scene::start_with(ClusterOptions {
            address: networks.host(),
            namespaces: vec![networks.name(0), networks.name(1)],
            agent_args: vec![format!("--docker-socket={}/{{node}}.sock", home.0.path().display())],
            ..ClusterOptions::containers(&[slots, slots])
        })
        .await;
        Self { engines, scene, networks, _home: home }
    }

    async fn finish(self) {
        self.scene.cluster.finish().await;
        for engine in self.engines {
            engine.stop().await;
        }
    }
}

pub(crate) async fn a_gang_on_two_hosts_with_engines_of_their_own_gets_its_image_and_meets() {
    let hosts = Hosts::start(1).await;
    let scene = &hosts.scene;
    let script = "ping -c 1 $(hostname) | head -n 1
        if [ $NODE_RANK = 0 ]; then
          echo met > /out/file
          echo 'hello from node rank 0' | nc -l -p $MASTER_PORT
        else
          until nc $MASTER_ADDR $MASTER_PORT; do sleep 0.1; done
        fi";
    scene.script(script, "volumes: [\"./out:/out\"]");

    let up = scene.convoke(&["up", "--nodes", "2"]).run().await.expect_code(0);
    assert!(up.stderr.contains(&format!("image {BASE}, which no registry has: shipped ")), "{}", up.stderr);
    assert!(up.stdout.contains("rank 1 · node-1 │ hello from node rank 0"), "{}", up.stdout);
    for node in 0..2 {
        let line = format!("rank {node} · node-{node} │ PING ");
        let own = format!("({})", hosts.networks.node(node));
        let knows_itself = |l: &str| l.starts_with(&line) && l.contains(&own);
        assert!(up.stdout.lines().any(knows_itself), "no {own}, as others see it:\n{}", up.stdout);
    }
    assert_eq!(scene.read("out/file").as_deref(), Some("met\n"));
    assert_eq!(scene.cluster.job(JOB).await.state(), v1::JobState::Succeeded);
    hosts.finish().await;
}

/// Runs jobs of `tests/frameworks` as they stand, on two nodes; every rank of `world` says the `sum`.
async fn frameworks(directory: &str, files: &[&str], world: usize, sum: usize) {
    let hosts = Hosts::start(2).await;
    let directory = repository().join("tests/frameworks").join(directory);
    for file in files {
        let up = hosts.scene.convoke(&["-f", file, "up", "--nodes", "2"]).directory(&directory).run().await;
        let up = up.expect_code(0);
        let line = format!("of {world}: the ranks add up to {sum}");
        let said: Vec<_> = up.stdout.lines().filter(|l| l.ends_with(&line)).collect();
        assert_eq!(said.len(), world, "{}", up.stdout);
        println!("{file}\n{}", said.join("\n"));
    }
    hosts.finish().await;
}

pub(crate) async fn pytorch_spans_two_hosts_under_torchrun_and_without_a_launcher() {
    frameworks("torch", &["torchrun.yaml", "per-gpu.yaml"], 4, 6).await;
}

pub(crate) async fn jax_spans_two_hosts() {
    frameworks("jax", &["compose.yaml"], 4, 6).await;
}

pub(crate) async fn tensorflow_spans_two_hosts() {
    frameworks("tensorflow", &["multi-worker.yaml"], 2, 1).await;
}

//! Hosts as far as containers can tell: a network and a Docker Engine each.

use std::path::{Path, PathBuf};

use convoke_tests::process::Process;
use convoke_tests::{ClusterOptions, LocalCluster, Scene, docker, eventually, procfs};

use super::namespaces::{Networks, SUBNETS};

/// A dockerd of a story's own, in a network namespace.
pub(crate) struct Engine {
    args: Vec<String>,
    socket: PathBuf,
    log: PathBuf,
    dockerd: Option<Process>,
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
    fn new(directory: &Path, node: &str, namespace: &str) -> Self {
        let path = |name: &str| directory.join(format!("{node}{name}"));
        // Not the host's own configuration, which may say other things.
        let config = format!("{{\"insecure-registries\": [\"{SUBNETS}\"]}}");
        std::fs::write(path(".json"), config).expect("it is writable");
        let args = [
            format!("--net=/run/netns/{namespace}"),
            "--".to_owned(),
            "dockerd".to_owned(),
            format!("--config-file={}", path(".json").display()),
            format!("--host=unix://{}", path(".sock").display()),
            format!("--data-root={}", path(".data").display()),
            format!("--exec-root={}", path(".exec").display()),
            format!("--pidfile={}", path(".pid").display()),
            "--bridge=none".to_owned(),
            "--iptables=false".to_owned(),
            "--ip6tables=false".to_owned(),
        ];
        Self { args: args.to_vec(), socket: path(".sock"), log: path(".log"), dockerd: None }
    }

    pub(crate) async fn start(&mut self) {
        let mut dockerd = Process::start(Path::new("nsenter"), &self.args, &self.log);
        eventually("the engine is there", async || {
            assert!(dockerd.ended().is_none(), "{}", dockerd.log());
            std::os::unix::net::UnixStream::connect(&self.socket).ok()
        })
        .await;
        self.dockerd = Some(dockerd);
    }

    /// An orderly end, which ends its containers.
    pub(crate) async fn stop(&mut self) {
        self.dockerd.take().expect("it runs").terminate("dockerd").await;
    }

    fn images(&self) -> String {
        let host = format!("unix://{}", self.socket.display());
        docker(&["--host", &host, "images", "--format", "{{.Repository}}:{{.Tag}}"])
    }
}

/// Nodes that share nothing but a network.
pub(crate) struct Hosts {
    pub(crate) engines: Vec<Engine>,
    pub(crate) scene: Scene,
    pub(crate) networks: Networks,
    _home: Home,
}

impl Hosts {
    /// A host for each of `slots`, of which there are two at most.
    pub(crate) async fn start(slots: &[u32]) -> Self {
        Self::start_with(slots, &[], |_| {}).await
    }

    /// The same, with further arguments for the agents; `prepare` is told where the first engine will have
    /// its data.
    pub(crate) async fn start_with(slots: &[u32], args: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let networks = Networks::new();
        let home = Home(tempfile::Builder::new().prefix("convoke-engines-").tempdir().expect("a directory"));
        let data = home.0.path().join(format!("{}.data", LocalCluster::node(0)));
        std::fs::create_dir(&data).expect("it is writable");
        prepare(&data);
        let mut engines = Vec::new();
        for node in 0..slots.len() {
            let mut engine = Engine::new(home.0.path(), &LocalCluster::node(node), &networks.name(node));
            engine.start().await;
            assert!(engine.images().is_empty(), "engines begin with nothing");
            engines.push(engine);
        }
        let socket = format!("--docker-socket={}/{{node}}.sock", home.0.path().display());
        let scene = Scene::start_with(ClusterOptions {
            address: networks.host(),
            namespaces: (0..slots.len()).map(|node| networks.name(node)).collect(),
            agent_args: args.iter().map(|arg| (*arg).to_owned()).chain([socket]).collect(),
            ..ClusterOptions::containers(slots)
        })
        .await;
        Self { engines, scene, networks, _home: home }
    }

    pub(crate) async fn finish(mut self) {
        self.scene.cluster.finish().await;
        for engine in &mut self.engines {
            engine.stop().await;
        }
    }
}

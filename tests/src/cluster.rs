//! One coordinator and some agents, as real processes on loopback.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use convoke_proto::v1;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tonic::transport::Channel;

use crate::logs::{self, Announced};
use crate::process::Process;
use crate::{ClusterOptions, Containers, Gate, binary, eventually, procfs};

/// Ends everything when dropped. A story's last line is [`LocalCluster::finish`].
#[derive(Debug)]
pub struct LocalCluster {
    options: ClusterOptions,
    coordinator: Option<Process>,
    agents: Vec<Option<Process>>,
    pub(crate) channel: Channel,
    address: String,
    announced: Mutex<Vec<Announced>>,
    finished: bool,
    /// Every container of the cluster, where it has any.
    containers: Option<Containers>,
    /// Keeps the coordinator's port for its next start: bound, not listening.
    _port: TcpSocket,
    /// Held exclusively: every process ends when it is released.
    lifeline: File,
    directory: TempDir,
}

impl LocalCluster {
    /// A coordinator, and an agent for each of `slots` with that many CPU slots.
    pub async fn start(slots: &[u32]) -> Self {
        Self::start_with(ClusterOptions { slots: slots.to_vec(), ..ClusterOptions::default() }).await
    }

    pub async fn start_with(options: ClusterOptions) -> Self {
        let directory = tempfile::Builder::new().prefix("convoke-").tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("logs")).expect("it is writable");
        let lifeline = File::create(directory.path().join("lifeline")).expect("it is writable");
        lifeline.lock().expect("nobody else has it");
        let port = TcpSocket::new_v4().expect("a socket");
        port.set_reuseaddr(true).expect("a new socket takes options");
        port.bind((options.address, 0).into()).expect("the address has a free port");
        let address = port.local_addr().expect("it is bound").to_string();
        let channel = Channel::from_shared(format!("http://{address}")).expect("an address").connect_lazy();
        let agents = options.slots.iter().map(|_| None).collect();
        let mut cluster = Self {
            options,
            coordinator: None,
            agents,
            channel,
            address,
            announced: Mutex::default(),
            finished: false,
            containers: None,
            _port: port,
            lifeline,
            directory,
        };
        cluster.start_coordinator().await;
        if cluster.options.containers {
            cluster.containers = Some(Containers::of_cluster(&cluster.identity().await.cluster_id));
        }
        for agent in 0..cluster.agents.len() {
            cluster.start_agent(agent);
        }
        for agent in 0..cluster.agents.len() {
            cluster.wait_node(agent, v1::NodeState::Ready).await;
        }
        cluster
    }

    /// Where everything of this cluster lies. Every process of it names this in its command line or
    /// environment.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.options.data_dir.clone().unwrap_or_else(|| self.directory().join("coordinator"))
    }

    /// Its containers; for a cluster that may have some.
    pub fn containers(&self) -> &Containers {
        self.containers.as_ref().expect("the cluster was started with containers")
    }

    pub fn gate(&self, name: &str) -> Gate {
        Gate::new(self.directory(), name)
    }

    /// Says that lines with `text` at level WARN or ERROR belong to the story, in the log of that
    /// process: `coordinator`, or a node's name.
    pub fn announce(&self, process: &str, text: &str) {
        let announced = Announced { process: process.to_owned(), text: text.to_owned() };
        self.announced.lock().unwrap_or_else(PoisonError::into_inner).push(announced);
    }

    /// Starts the coordinator, on the same port and data directory as before; returns when it
    /// accepts calls.
    pub async fn start_coordinator(&mut self) {
        assert!(self.coordinator.is_none(), "the coordinator runs");
        let file = self.directory().join("address");
        let _ = fs::remove_file(&file);
        let mut args = vec![
            "serve".to_owned(),
            format!("--data-dir={}", self.data_dir().display()),
            format!("--listen={}", self.address),
            format!("--address-file={}", file.display()),
            format!("--lease={}ms", self.options.lease.as_millis()),
            format!("--reconnect-window={}ms", self.options.reconnect_window.as_millis()),
            self.lifeline_arg(),
        ];
        if !self.options.address.is_loopback() {
            self.announce("coordinator", "INSECURE");
            args.push("--insecure".to_owned());
        }
        let mut process = Process::start(&binary("convoke"), &args, &self.log_file("coordinator"));
        eventually("the coordinator has written its address file", async || {
            if let Some(status) = process.ended() {
                panic!("the coordinator ended with {status}:\n{}", process.log());
            }
            fs::read_to_string(&file).ok().filter(|address| address.trim() == self.address)
        })
        .await;
        self.coordinator = Some(process);
    }

    /// SIGKILL. The agents may say that they miss it.
    pub fn kill_coordinator(&mut self) {
        for agent in 0..self.agents.len() {
            self.announce(&Self::node(agent), "running tasks go on, trying again");
        }
        self.coordinator.take().expect("the coordinator runs").kill9();
    }

    /// Starts an agent in its own state directory; does not wait for its registration.
    pub fn start_agent(&mut self, agent: usize) {
        assert!(self.agents[agent].is_none(), "agent {agent} runs");
        let (node, slots) = (Self::node(agent), self.options.slots[agent]);
        let process = match self.options.namespaces.get(agent) {
            Some(namespace) => self.agent_in(namespace, &node, slots),
            None => self.extra_agent(&node, &node, slots),
        };
        self.agents[agent] = Some(process);
    }

    /// An agent of a name and a state directory of the story's choice; the story ends it.
    pub fn extra_agent(&self, node: &str, state_dir: &str, slots: u32) -> Process {
        self.agent_of(&self.url(), node, state_dir, slots)
    }

    /// The same, of a coordinator of the story's choice.
    pub fn agent_of(&self, coordinator: &str, node: &str, state_dir: &str, slots: u32) -> Process {
        let mut args = self.agent_args(coordinator, node, state_dir, slots);
        args.push("--advertise-address=127.0.0.1".to_owned());
        let variables = &self.options.agent_variables;
        Process::start_with(&binary("convoke-agent"), &args, variables, &self.log_file(state_dir))
    }

    /// An agent on whose host the directory is another one: empty, in a mount namespace of its own. What it
    /// lays out must be seen by the engine all the same, so that it may mount nothing itself. The story ends it.
    pub fn agent_without(&self, directory: &Path, node: &str, slots: u32) -> Process {
        let script =
            "mount -t tmpfs none \"$0\" && exec setpriv --inh-caps=-all --bounding-set=-sys_admin -- \"$@\"";
        let (directory, agent) =
            (directory.display().to_string(), binary("convoke-agent").display().to_string());
        let mut args: Vec<_> = ["--mount", "sh", "-c", script].map(ToOwned::to_owned).into();
        args.extend([directory, agent]);
        args.extend(self.agent_args(&self.url(), node, node, slots));
        args.push("--advertise-address=127.0.0.1".to_owned());
        // Each of the programs becomes the next.
        Process::start(Path::new("unshare"), &args, &self.log_file(node))
    }

    fn agent_in(&self, namespace: &str, node: &str, slots: u32) -> Process {
        let agent = binary("convoke-agent").display().to_string();
        // Only the network is another one: what an agent mounts, its engine must see.
        let mut args = vec![format!("--net=/run/netns/{namespace}"), "--".to_owned(), agent];
        args.extend(self.agent_args(&self.url(), node, node, slots));
        // It becomes the agent.
        let variables = &self.options.agent_variables;
        Process::start_with(Path::new("nsenter"), &args, variables, &self.log_file(node))
    }

    fn agent_args(&self, coordinator: &str, node: &str, state_dir: &str, slots: u32) -> Vec<String> {
        let mut args = vec![
            format!("--coordinator={coordinator}"),
            format!("--node={node}"),
            format!("--state-dir={}", self.directory().join(state_dir).display()),
            format!("--cpu-slots={slots}"),
            "--allow-processes".to_owned(),
            self.lifeline_arg(),
        ];
        if !self.options.containers {
            args.push("--no-docker".to_owned());
        }
        args.extend(self.options.agent_args.iter().map(|arg| arg.replace("{node}", node)));
        args
    }

    /// SIGKILL to the agent; its shims and tasks go on.
    pub fn kill_agent(&mut self, agent: usize) {
        self.agents[agent].take().expect("the agent runs").kill9();
    }

    /// SIGKILL to the agent, its shims and its tasks, as when the host loses power.
    pub fn kill_node(&mut self, agent: usize) {
        self.kill_agent(agent);
        let state_dir = format!("{}/", self.directory().join(Self::node(agent)).display());
        procfs::kill_all(&procfs::mentioning(&state_dir));
    }

    /// The name of an agent's node.
    pub fn node(agent: usize) -> String {
        format!("node-{agent}")
    }

    fn lifeline_arg(&self) -> String {
        format!("--lifeline={}", self.directory().join("lifeline").display())
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.directory().join("logs").join(format!("{name}.log"))
    }

    /// Every line that its processes logged.
    pub fn log_lines(&self) -> Vec<String> {
        logs::all(&self.directory().join("logs"))
    }

    /// Ends the agents, then the coordinator, in order. Then nothing of the cluster is left, and no
    /// log complains of anything that was not announced.
    pub async fn finish(mut self) {
        if let Some(containers) = &self.containers {
            let gone = async || {
                let mounted = procfs::mounted_below(self.directory());
                (containers.list().is_empty() && mounted.is_empty()).then_some(())
            };
            eventually("the agents have removed every container, and what they had mounted", gone).await;
        }
        for (n, agent) in self.agents.iter_mut().enumerate() {
            if let Some(agent) = agent {
                agent.terminate(&Self::node(n)).await;
            }
        }
        if let Some(coordinator) = &mut self.coordinator {
            coordinator.terminate("the coordinator").await;
        }
        let marker = self.directory().display().to_string();
        let mut left = Vec::new();
        eventually(&format!("no process of {marker} is left"), async || {
            left = procfs::mentioning(&marker);
            left.is_empty().then_some(())
        })
        .await;
        assert_eq!(procfs::mounted_below(self.directory()), Vec::<PathBuf>::new(), "still mounted");
        let announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let complaints = logs::complaints(&self.directory().join("logs"), &announced);
        assert!(complaints.is_empty(), "not announced by the story:\n{}", complaints.join("\n"));
        self.finished = true;
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what the processes said ---\n{}", self.log_lines().join("\n"));
            for process in procfs::mentioning(&self.directory().display().to_string()) {
                eprintln!("--- still there: {} (of {}) {}", process.pid, process.parent, process.command);
            }
        }
        let _ = self.lifeline.unlock();
        self.agents.clear();
        self.coordinator = None;
        procfs::kill_all(&procfs::mentioning(&self.directory().display().to_string()));
        if let Some(containers) = &self.containers {
            containers.remove();
        }
        // What agents laid out for replicas that they did not come to remove would outlive the directory.
        procfs::unmount_below(self.directory());
        assert!(self.finished || std::thread::panicking(), "the story does not end with `finish`");
    }
}

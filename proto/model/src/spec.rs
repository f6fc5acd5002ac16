//! What a user asks for: one service of a Compose file, as a job specification.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ContainerOptions, JobName, TreeRef};

/// The largest gang that a spec may ask for; a larger number is taken for a mistake.
pub const MAX_REPLICAS: u32 = 100_000;
/// The largest number of devices one replica may ask for.
pub const MAX_DEVICES_PER_REPLICA: u32 = 1_024;

/// A job as submitted. Immutable once accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    pub name: JobName,
    /// The Compose project the job belongs to; `convoke down` works on a project.
    pub project: String,
    /// The Compose service the job was made from.
    pub service: String,
    /// The submitter's directory that relative paths mean; absolute.
    pub project_dir: String,
    /// The entrypoint followed by the command, as an argument vector. For a containerised job
    /// empty means the image's own.
    pub entrypoint: Option<Vec<String>>,
    pub command: Vec<String>,
    pub environment: BTreeMap<String, String>,
    /// Absolute, or relative to `project_dir`.
    pub working_dir: Option<String>,
    /// Number of nodes, at least 1.
    pub replicas: u32,
    /// Devices per replica.
    pub devices: DeviceRequest,
    pub limits: ResourceLimits,
    pub layout: RankLayout,
    /// Processes that each task starts for itself (torchrun's `--nproc_per_node`), where the
    /// command line fixes it. Only with `RankLayout::PerNode`.
    pub procs_per_task: Option<u32>,
    pub framework: Framework,
    /// Higher goes first; 0 by default.
    pub priority: i32,
    pub restart: RestartPolicy,
    /// Signal number that asks a task to stop; 15 by default.
    pub stop_signal: i32,
    /// How long a task may take to stop when the user or a drain asks.
    pub stop_grace: Duration,
    /// How long the survivors of a failed gang may take to stop.
    pub failure_grace: Duration,
    /// The gang is stopped and the job failed when it has run this long in all.
    pub time_limit: Option<Duration>,
    pub checkpoint: CheckpointPolicy,
    /// The data interface by name; else the route to the peers decides.
    pub interface: Option<String>,
    pub fence: Option<Duration>,
    pub collect: Collect,
    pub preflight: bool,
    pub constraints: Vec<Constraint>,
    /// `None`: host processes.
    pub image: Option<String>,
    pub container: ContainerOptions,
}

/// Devices per replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    pub kind: DeviceKind,
    pub count: DeviceCount,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    Gpu,
    /// A CPU slot: lets every path run without a GPU.
    Cpu,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceCount {
    /// This many. 0 only for a container with one task, such as a dashboard beside a training.
    Count(u32),
    /// Every device of the kind that the node has.
    All,
    /// Exactly these, by node-local index or UUID.
    Ids(Vec<String>),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// CPUs, as Compose writes them (`"0.5"` is half of one), in thousandths.
    pub milli_cpus: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    pub pids: Option<u64>,
}

/// How a replica is cut into tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankLayout {
    /// One task per replica.
    #[default]
    PerNode,
    /// One task per device.
    PerGpu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Framework {
    #[default]
    Torch,
    Jax,
    Tensorflow,
}

/// How often a gang may be started again before the job fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// For causes outside the application: a lost node, a task killed by SIGKILL, a failed start.
    /// `None` is without limit.
    pub infrastructure: Option<u32>,
    /// For an exit code of the application's own. `None` is without limit.
    pub application: Option<u32>,
    /// Pause before a generation that follows a failure; without a budget for the failure, at least one that doubles
    /// up to a minute while generations end at once.
    pub delay: Duration,
    /// Also once every task has exited with 0, without limit: for what is not meant to end.
    #[serde(default)]
    pub after_success: bool,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { infrastructure: Some(3), application: Some(0), delay: Duration::ZERO, after_success: false }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointPolicy {
    /// Where the trainer leaves `step-<n>/`; `None` is a directory of the job's own.
    pub dir: Option<String>,
    /// Complete checkpoints kept, newest first; at least 1.
    pub keep: u32,
    pub shards: Shards,
}

impl Default for CheckpointPolicy {
    fn default() -> Self {
        Self { dir: None, keep: 3, shards: Shards::RankZero }
    }
}

/// Who writes a shard of each checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shards {
    #[default]
    RankZero,
    All,
}

/// Which replicas' files come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Collect {
    #[default]
    NodeRankZero,
    All,
}

/// `node.labels.x == y`, `node.hostname != z` or `node.id == n`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraint {
    pub subject: ConstraintSubject,
    pub equal: bool,
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConstraintSubject {
    Hostname,
    /// The node's name in the cluster.
    Id,
    Label(String),
}

/// Why a spec cannot be accepted whatever the cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidSpec {
    /// The field, as the Compose file names it.
    pub field: &'static str,
    pub problem: String,
}

impl JobSpec {
    /// Host processes that run `command`: one replica with one CPU slot, everything else as a Compose
    /// file leaves it that says no more.
    pub fn processes(name: JobName, command: Vec<String>) -> Self {
        Self {
            project: name.to_string(),
            service: name.to_string(),
            name,
            project_dir: "/".to_owned(),
            entrypoint: None,
            command,
            environment: BTreeMap::new(),
            working_dir: None,
            replicas: 1,
            devices: DeviceRequest { kind: DeviceKind::Cpu, count: DeviceCount::Count(1) },
            limits: ResourceLimits::default(),
            layout: RankLayout::default(),
            procs_per_task: None,
            framework: Framework::default(),
            priority: 0,
            restart: RestartPolicy::default(),
            stop_signal: 15,
            stop_grace: Duration::from_secs(10),
            failure_grace: Duration::from_secs(2),
            time_limit: None,
            checkpoint: CheckpointPolicy::default(),
            interface: None,
            fence: None,
            collect: Collect::default(),
            preflight: false,
            constraints: Vec::new(),
            image: None,
            container: ContainerOptions::default(),
        }
    }

    /// Checks the rules that hold on any cluster. The coordinator calls it again on every submit:
    /// it does not trust clients.
    pub fn validate(&self) -> Result<(), InvalidSpec> {
        let bad = |field, problem: &str| Err(InvalidSpec { field, problem: problem.to_owned() });
        if self.replicas == 0 || self.replicas > MAX_REPLICAS {
            return bad("deploy.replicas", &format!("{} is not between 1 and {MAX_REPLICAS}", self.replicas));
        }
        match &self.devices.count {
            DeviceCount::Count(0) if self.image.is_some() && self.layout == RankLayout::PerNode => {}
            DeviceCount::Count(n) if *n == 0 || *n > MAX_DEVICES_PER_REPLICA => {
                return bad("devices.count", &format!("{n} is not between 1 and {MAX_DEVICES_PER_REPLICA}"));
            }
            DeviceCount::Ids(ids) if ids.is_empty() => return bad("devices.device_ids", "is empty"),
            DeviceCount::Ids(ids) if (1..ids.len()).any(|i| ids[..i].contains(&ids[i])) => {
                return bad("devices.device_ids", "names a device twice");
            }
            _ => {}
        }
        if self.image.is_none() && self.argv().is_empty() {
            return bad("command", "a service without an image needs a command");
        }
        if self.procs_per_task == Some(0) {
            return bad("command", "nproc_per_node is 0");
        }
        if self.checkpoint.keep == 0 {
            return bad("x-convoke.checkpoint.keep", "must be at least 1");
        }
        if !(1..=64).contains(&self.stop_signal) {
            return bad("stop_signal", &format!("{} is not a signal number", self.stop_signal));
        }
        if let Some(key) = self.environment.keys().find(|k| k.is_empty() || k.contains(['=', '\0'])) {
            return bad("environment", &format!("\"{key}\" is not a variable name"));
        }
        if self.argv().iter().chain(self.environment.values()).any(|v| v.contains('\0')) {
            return bad("command", "contains a NUL character");
        }
        Ok(())
    }

    /// The content that travels with it: of mounts, secrets, configs and the image.
    pub fn trees(&self) -> impl Iterator<Item = &TreeRef> {
        let ContainerOptions { volumes, secrets, configs, image_content, .. } = &self.container;
        let mounts = volumes.iter().filter_map(|mount| mount.content.as_ref());
        let grants = secrets.iter().chain(configs).filter_map(|grant| grant.content.as_ref());
        mounts.chain(grants).chain(image_content)
    }

    /// The whole argument vector: entrypoint, then command.
    pub fn argv(&self) -> Vec<String> {
        self.entrypoint.iter().flatten().chain(&self.command).cloned().collect()
    }
}

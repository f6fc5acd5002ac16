//! What a runtime is asked to run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use convoke_model::{
    ClusterId, ContainerOptions, DeviceId, Generation, GpuInjection, JobId, JobSpec, NodeId, NodeRank, Rank,
    ReplicaKey, ResourceLimits,
};
use serde::{Deserialize, Serialize};

use crate::files::HostMount;

/// Names a task on this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskKey {
    pub replica: ReplicaKey,
    /// The task's first rank.
    pub rank: Rank,
}

impl fmt::Display for TaskKey {
    /// `<job>.g<generation>.n<node rank>.r<rank>`; also the name of its directory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReplicaKey { job, generation, node_rank } = &self.replica;
        write!(f, "{job}.g{generation}.n{node_rank}.r{}", self.rank)
    }
}

impl TaskKey {
    /// The task whose directory has that name.
    pub(crate) fn of_directory(name: &str) -> Option<Self> {
        let (rest, rank) = name.rsplit_once(".r")?;
        let (rest, node_rank) = rest.rsplit_once(".n")?;
        let (job, generation) = rest.rsplit_once(".g")?;
        let replica = ReplicaKey {
            job: JobId::new(job).ok()?,
            generation: Generation(generation.parse().ok()?),
            node_rank: NodeRank(node_rank.parse().ok()?),
        };
        let key = Self { replica, rank: Rank(rank.parse().ok()?) };
        (key.to_string() == name).then_some(key)
    }
}

/// A task, ready to be started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    pub key: TaskKey,
    /// This node, for messages.
    pub node: NodeId,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// What [`crate::env::task_environment`] made. A runtime adds only what a process cannot do
    /// without (PATH, HOME, …) where it is not set.
    pub environment: BTreeMap<String, String>,
    /// Absolute.
    pub working_dir: PathBuf,
    /// Signal number that asks the task to end.
    pub stop_signal: i32,
    /// The container that it runs in; `None` is a process of the host.
    #[serde(default)]
    pub container: Option<Box<Container>>,
}

/// What only a container has. For one, `argv` and `working_dir` of the [`TaskSpec`] are not used:
/// what is left out here is the image's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Name on the engine; unique on the host for each generation and task.
    pub name: String,
    /// The engine's id of the image, as prepared.
    pub image: String,
    /// The image as the job names it, for messages.
    #[serde(default)]
    pub image_name: String,
    pub entrypoint: Option<Vec<String>>,
    /// Empty is the image's own, unless there is an entrypoint.
    pub command: Vec<String>,
    pub working_dir: Option<String>,
    /// The job's mounts, and Convoke's own.
    pub mounts: Vec<HostMount>,
    /// As the job has them; `volumes`, `secrets` and `configs` are in `mounts` already.
    pub options: ContainerOptions,
    pub limits: ResourceLimits,
    /// UUIDs of the job's GPUs on this node: each task sees all of them, its local rank picks.
    pub gpus: Vec<DeviceId>,
    pub gpu_injection: Option<GpuInjection>,
    /// The job is a gang of several replicas: host networking unless it says otherwise.
    pub gang: bool,
    /// How long the engine itself, when it shuts down, lets the task end.
    #[serde(default)]
    pub stop_grace: Option<Duration>,
    /// The cluster that the job belongs to, for the container's labels.
    #[serde(default)]
    pub cluster: Option<ClusterId>,
    /// Name of the container of the same replica whose IPC namespace it joins; `None` for the first,
    /// which makes the namespace.
    pub ipc_of: Option<String>,
}

/// The directory a job's tasks start in: its working directory, resolved against its project's.
pub fn working_dir(spec: &JobSpec) -> PathBuf {
    let project = Path::new(&spec.project_dir);
    spec.working_dir.as_ref().map_or_else(|| project.to_owned(), |dir| project.join(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_known_by_its_directorys_name_whatever_its_job_is_called() {
        for job in ["train-4f2a", "a.g7.n1.r2", "x.r3"] {
            let job = JobId::new(job).unwrap();
            let replica = ReplicaKey { job, generation: Generation(12), node_rank: NodeRank(1) };
            let key = TaskKey { replica, rank: Rank(3) };
            assert_eq!(TaskKey::of_directory(&key.to_string()), Some(key));
        }
        for other in ["", "lost+found", "j.g1.n0", "j.g1.n0.r", "j.g+1.n0.r0", "j.g01.n0.r0"] {
            assert_eq!(TaskKey::of_directory(other), None, "{other}");
        }
    }
}

//! What a runtime is asked to run.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use convoke_model::{JobSpec, NodeId, Rank, ReplicaKey};
use serde::{Deserialize, Serialize};

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

/// A task, ready to be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// The directory a job's tasks start in: its working directory, resolved against its project's.
pub fn working_dir(spec: &JobSpec) -> PathBuf {
    let project = Path::new(&spec.project_dir);
    spec.working_dir.as_ref().map_or_else(|| project.to_owned(), |dir| project.join(dir))
}

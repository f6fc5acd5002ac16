//! What a task finds in its environment. Pure: the same facts give the same variables.

use std::collections::BTreeMap;
use std::path::Path;

use convoke_model::{DesiredReplica, NodeAddress, Rendezvous};

/// All that a task's environment is made of.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub replica: &'a DesiredReplica,
    pub rendezvous: &'a Rendezvous,
    /// Which of the replica's tasks, counting from 0.
    pub task_index: u32,
    /// The data interface.
    pub data: &'a NodeAddress,
    /// Path of the trainer socket.
    pub socket: &'a Path,
    pub checkpoint_dir: &'a Path,
    /// Directory of the checkpoint to start from.
    pub resume_from: Option<&'a Path>,
    pub metrics: &'a Path,
    /// Where torchrun may write its workers' logs.
    pub log_dir: &'a Path,
    /// From [`crate::devices::Devices::visibility`].
    pub visibility: &'a BTreeMap<String, String>,
    /// Variables that this node needs, by its operator.
    pub node: &'a BTreeMap<String, String>,
}

/// A task's variables, and what to tell the user about them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskEnvironment {
    pub variables: BTreeMap<String, String>,
    /// Sentences for people, such as a variable of the user's that was ignored.
    pub notes: Vec<String>,
}

/// Why no environment can be made for the job as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvironmentError {
    #[error(
        "{name} is set to \"{value}\" in the job's environment, but every task of a gang of several replicas needs its own; remove it"
    )]
    Fixed { name: &'static str, value: String },
    #[error("the rendezvous has no peer of rank {rank}; it does not belong to this placement")]
    NotInRendezvous { rank: u32 },
}

/// The variables of one task.
pub fn task_environment(facts: &Facts<'_>) -> Result<TaskEnvironment, EnvironmentError> {
    let variables = facts.replica.spec.environment.clone();
    Ok(TaskEnvironment { variables, notes: Vec::new() })
}

//! What a task finds in its environment. Pure: the same facts give the same variables.
//!
//! The user's own variables stay as they are; ours fill what is missing. Exceptions: the visibility
//! of devices and `CONVOKE_*` are always ours (with a note where that hides a value of the user's),
//! and what differs from task to task must not be fixed by the user in a gang of several tasks.

mod frameworks;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use convoke_model::{DesiredReplica, Framework, NodeAddress, RankLayout, Rendezvous};

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
        "{name} is set to \"{value}\" in the job's environment, but every task of a gang of several needs its own; remove it"
    )]
    Fixed { name: String, value: String },
    #[error("the rendezvous has no peer of rank {rank}; it does not belong to this placement")]
    NotInRendezvous { rank: u32 },
}

/// Variables by name.
type Variables = BTreeMap<String, String>;

/// The variables of one task.
pub fn task_environment(facts: &Facts<'_>) -> Result<TaskEnvironment, EnvironmentError> {
    let position = Position::of(facts)?;
    let mut notes = Vec::new();
    let mut ranks = rank_variables(facts, &position);
    match frameworks::tf_config(facts.rendezvous, position.task) {
        Some(config) => set(&mut ranks, "TF_CONFIG", config),
        None => notes.push(
            "TF_CONFIG is left out: with this many tasks it exceeds what a process can take".to_owned(),
        ),
    }
    if facts.replica.spec.framework == Framework::Jax {
        ranks.extend(frameworks::jax(facts.rendezvous, &position));
    }
    let user = &facts.replica.spec.environment;
    if facts.rendezvous.peers.len() > 1
        && let Some((name, value)) = user.iter().find(|(name, _)| ranks.contains_key(*name) || is_ours(name))
    {
        return Err(EnvironmentError::Fixed { name: name.clone(), value: value.clone() });
    }

    let mut variables = ranks;
    variables.extend(defaults(facts, &position));
    variables.extend(facts.node.clone());
    variables.extend(user.clone());
    let always = convoke_variables(facts).into_iter().chain(facts.visibility.clone());
    for (name, value) in always {
        if let Some(theirs) = user.get(&name).filter(|theirs| **theirs != value) {
            notes.push(format!(
                "{name}={theirs} of the job's environment is ignored: Convoke sets it to {value}"
            ));
        }
        variables.insert(name, value);
    }
    if facts.visibility.is_empty() && user.contains_key("NVIDIA_VISIBLE_DEVICES") {
        variables.remove("NVIDIA_VISIBLE_DEVICES");
        notes.push(
            "NVIDIA_VISIBLE_DEVICES of the job's environment is ignored: it reserves no GPU".to_owned(),
        );
    }
    Ok(TaskEnvironment { variables, notes })
}

/// Where a task stands in its gang.
struct Position {
    /// Index among the gang's tasks.
    task: usize,
    /// First rank of the task.
    rank: u32,
    local_rank: u32,
    /// Processes of the replica.
    local_world: u32,
    /// The task is one process, and knows its rank.
    single: bool,
    /// The task has its replica to itself, and so may be a launcher such as torchrun: also of one process.
    launcher: bool,
}

impl Position {
    fn of(facts: &Facts<'_>) -> Result<Self, EnvironmentError> {
        let placement = &facts.replica.placement;
        let per_gpu = facts.replica.spec.layout == RankLayout::PerGpu;
        let local_rank = if per_gpu { facts.task_index } else { 0 };
        let rank = placement.first_rank.0 + local_rank;
        let task = facts.rendezvous.peers.iter().position(|peer| peer.rank.0 == rank);
        Ok(Self {
            task: task.ok_or(EnvironmentError::NotInRendezvous { rank })?,
            rank,
            local_rank,
            local_world: placement.local_world,
            single: per_gpu || placement.local_world == 1,
            launcher: !per_gpu,
        })
    }
}

/// What differs between the tasks of a gang, or must be the same for all of them.
fn rank_variables(facts: &Facts<'_>, position: &Position) -> Variables {
    let node_rank = facts.replica.placement.node_rank.to_string();
    let address = facts.rendezvous.master_addr.to_string();
    let port = facts.rendezvous.master_port.to_string();
    let mut variables = Variables::new();
    let mut add = |name, value| set(&mut variables, name, value);
    add("NODE_RANK", node_rank.clone());
    add("MASTER_ADDR", address.clone());
    add("MASTER_PORT", port.clone());
    if position.single {
        add("RANK", position.rank.to_string());
        add("LOCAL_RANK", position.local_rank.to_string());
        add("WORLD_SIZE", facts.rendezvous.world_size.to_string());
        add("LOCAL_WORLD_SIZE", position.local_world.to_string());
        add("GROUP_RANK", node_rank.clone());
    }
    if position.launcher {
        add("PET_NNODES", facts.replica.node_count.to_string());
        add("PET_NODE_RANK", node_rank);
        add("PET_MASTER_ADDR", address);
        add("PET_MASTER_PORT", port);
    }
    variables
}

/// What only helps, and what a user may well set otherwise.
fn defaults(facts: &Facts<'_>, position: &Position) -> Variables {
    let mut variables = Variables::new();
    let mut add = |name, value: String| set(&mut variables, name, value);
    if !facts.data.interface.is_empty() {
        // With "=" NCCL takes the very name; without, every interface whose name begins so.
        add("NCCL_SOCKET_IFNAME", format!("={}", facts.data.interface));
        add("GLOO_SOCKET_IFNAME", facts.data.interface.clone());
    }
    // Lines come as they are printed: into a pipe, Python keeps them until its buffer is full.
    add("PYTHONUNBUFFERED", "1".to_owned());
    if position.launcher {
        add("PET_NPROC_PER_NODE", position.local_world.to_string());
        // The gang is restarted as a whole, by the coordinator.
        add("PET_MAX_RESTARTS", "0".to_owned());
        add("PET_MONITOR_INTERVAL", "0.1".to_owned());
        // Workers' stdout and stderr to the console (and so to the logs) and to files.
        add("PET_TEE", "3".to_owned());
        add("PET_LOG_DIR", facts.log_dir.display().to_string());
    } else if position.local_world > 1 {
        // As torchrun does: else every process takes all the cores.
        add("OMP_NUM_THREADS", "1".to_owned());
    }
    if !position.single && facts.replica.spec.framework == Framework::Jax {
        add("JAX_LOCAL_DEVICE_IDS", frameworks::all_devices(facts.replica.placement.devices.len()));
    }
    variables
}

fn convoke_variables(facts: &Facts<'_>) -> Variables {
    let mut variables = Variables::new();
    let mut add = |name, value| set(&mut variables, name, value);
    add("CONVOKE_JOB", facts.replica.job.to_string());
    add("CONVOKE_GENERATION", facts.replica.generation.to_string());
    add("CONVOKE_SOCKET", facts.socket.display().to_string());
    add("CONVOKE_CHECKPOINT_DIR", facts.checkpoint_dir.display().to_string());
    add("CONVOKE_METRICS", facts.metrics.display().to_string());
    add("CONVOKE_ADDRESS", facts.data.address.to_string());
    if let Some(resume_from) = facts.resume_from {
        add("CONVOKE_RESUME_FROM", resume_from.display().to_string());
    }
    variables
}

/// Also refused where this task's layout does not need them: they would be misread.
fn is_ours(name: &str) -> bool {
    matches!(name, "RANK" | "LOCAL_RANK" | "WORLD_SIZE" | "LOCAL_WORLD_SIZE" | "GROUP_RANK" | "PET_NODE_RANK")
}

fn set(variables: &mut Variables, name: &str, value: String) {
    variables.insert(name.to_owned(), value);
}

//! What an agent reports: the whole observed state of its node.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Condition, DeviceCondition, Epoch, Explanation, Rank, ReplicaKey, Revision, TaskExit};

/// The complete observed state of one node; sent on connect and after every change.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ObservedState {
    /// The last desired state that the agent accepted; `None` before the first.
    pub applied: Option<(Epoch, Revision)>,
    /// Every replica the agent knows, wanted or not.
    pub replicas: Vec<ObservedReplica>,
    pub conditions: Vec<Condition>,
    /// What is wrong with single devices.
    #[serde(default)]
    pub device_conditions: Vec<DeviceCondition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedReplica {
    pub key: ReplicaKey,
    pub phase: ReplicaPhase,
    /// In rank order; one per task.
    pub tasks: Vec<ObservedTask>,
    /// What its preparation is busy with, where that takes a while.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// What its job's people should know: named problems that did not keep it from running.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// How far a long step is. While it moves, nobody calls it too slow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// For people: "pulls the image".
    pub what: String,
    /// Bytes.
    pub done: u64,
    /// Bytes; 0 where it is not known.
    pub total: u64,
}

/// How far a replica is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaPhase {
    Preparing,
    /// Devices and ports are reserved and held; tasks can start.
    Ready {
        address: IpAddr,
        master_port: u16,
        task_ports: Vec<u16>,
        /// Where it answers its peers' reachability probes until it is over.
        #[serde(default)]
        probe_port: Option<u16>,
        /// The engine's id of the image that its tasks will run.
        #[serde(default)]
        image: Option<String>,
    },
    /// It could not be prepared; nothing runs and nothing is held.
    Refused {
        message: String,
        retryable: bool,
        /// Why, and what to change, where that is recognised.
        #[serde(default)]
        explanation: Option<Box<Explanation>>,
    },
    /// At least one task was started. See the tasks for what became of them.
    Started,
    /// Every task has ended (or none was ever started) and no process is left.
    Ended,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedTask {
    /// The task's (first) rank.
    pub rank: Rank,
    pub phase: TaskPhase,
}

/// What a container's health check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Within its start period, or not checked yet.
    Starting,
    Healthy,
    Unhealthy,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskPhase {
    Waiting,
    Running {
        pid: u32,
        /// `None` without a health check.
        #[serde(default)]
        health: Option<Health>,
    },
    Exited(TaskExit),
}

//! What an agent reports.

use convoke_model::{
    Epoch, Generation, Health, NodeRank, ObservedReplica, ObservedState, ObservedTask, Progress, Rank,
    ReplicaKey, ReplicaPhase, Revision, TaskPhase,
};

use super::explanation::boxed;
use super::{InvalidMessage, address, all, id, invalid, optional_port, port, required};
use crate::v1;
use crate::v1::{observed_replica, observed_task};

/// Conditions of a node, and problems of its devices: each device may have some.
const MAX_CONDITIONS: usize = 4096;

impl From<ObservedState> for v1::ObservedState {
    fn from(observed: ObservedState) -> Self {
        let (epoch, revision) = observed.applied.unwrap_or_default();
        Self {
            applied_epoch: epoch.0,
            applied_revision: revision.0,
            replicas: observed.replicas.into_iter().map(Into::into).collect(),
            conditions: observed.conditions.into_iter().map(Into::into).collect(),
            device_conditions: observed.device_conditions.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::ObservedState> for ObservedState {
    type Error = InvalidMessage;
    fn try_from(wire: v1::ObservedState) -> Result<Self, InvalidMessage> {
        let conditions = wire.conditions.len().max(wire.device_conditions.len());
        if conditions > MAX_CONDITIONS {
            return Err(invalid(
                "observed.conditions",
                format!("{conditions} is more than {MAX_CONDITIONS}"),
            ));
        }
        // Epochs count from 1, so 0 is "none yet".
        let applied =
            (wire.applied_epoch != 0).then_some((Epoch(wire.applied_epoch), Revision(wire.applied_revision)));
        Ok(Self {
            applied,
            replicas: all(wire.replicas)?,
            conditions: all(wire.conditions)?,
            device_conditions: all(wire.device_conditions)?,
        })
    }
}

impl From<ObservedReplica> for v1::ObservedReplica {
    fn from(replica: ObservedReplica) -> Self {
        use observed_replica::Phase;
        let phase = match replica.phase {
            ReplicaPhase::Preparing => Phase::Preparing(v1::PhasePreparing {}),
            ReplicaPhase::Ready { address, master_port, task_ports, probe_port, image } => {
                Phase::Ready(v1::PhaseReady {
                    address: address.to_string(),
                    master_port: master_port.into(),
                    task_ports: task_ports.into_iter().map(Into::into).collect(),
                    probe_port: probe_port.unwrap_or(0).into(),
                    image: image.unwrap_or_default(),
                })
            }
            ReplicaPhase::Refused { message, retryable, explanation } => {
                let explanation = explanation.map(|explanation| (*explanation).into());
                Phase::Refused(v1::PhaseRefused { message, retryable, explanation })
            }
            ReplicaPhase::Started => Phase::Started(v1::PhaseStarted {}),
            ReplicaPhase::Ended => Phase::Ended(v1::PhaseEnded {}),
        };
        Self {
            job_id: replica.key.job.into(),
            generation: replica.key.generation.0,
            node_rank: replica.key.node_rank.0,
            phase: Some(phase),
            tasks: replica.tasks.into_iter().map(Into::into).collect(),
            progress: replica.progress.map(Into::into),
            conditions: replica.conditions.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::ObservedReplica> for ObservedReplica {
    type Error = InvalidMessage;
    fn try_from(wire: v1::ObservedReplica) -> Result<Self, InvalidMessage> {
        use observed_replica::Phase;
        let phase = match required(wire.phase, "replica.phase")? {
            Phase::Preparing(_) => ReplicaPhase::Preparing,
            Phase::Ready(ready) => ReplicaPhase::Ready {
                address: address(&ready.address, "ready.address")?,
                master_port: port(ready.master_port, "ready.master_port")?,
                task_ports: ready
                    .task_ports
                    .into_iter()
                    .map(|p| port(p, "ready.task_ports"))
                    .collect::<Result<_, _>>()?,
                probe_port: optional_port(ready.probe_port, "ready.probe_port")?,
                image: (!ready.image.is_empty()).then_some(ready.image),
            },
            Phase::Refused(v1::PhaseRefused { message, retryable, explanation }) => {
                ReplicaPhase::Refused { message, retryable, explanation: boxed(explanation) }
            }
            Phase::Started(_) => ReplicaPhase::Started,
            Phase::Ended(_) => ReplicaPhase::Ended,
        };
        let key = ReplicaKey {
            job: id(&wire.job_id, "replica.job_id")?,
            generation: Generation(wire.generation),
            node_rank: NodeRank(wire.node_rank),
        };
        Ok(Self {
            key,
            phase,
            tasks: all(wire.tasks)?,
            progress: wire.progress.map(Into::into),
            conditions: all(wire.conditions)?,
        })
    }
}

impl From<Progress> for v1::Progress {
    fn from(progress: Progress) -> Self {
        Self { what: progress.what, done: progress.done, total: progress.total }
    }
}

impl From<v1::Progress> for Progress {
    fn from(wire: v1::Progress) -> Self {
        Self { what: wire.what, done: wire.done, total: wire.total }
    }
}

impl From<ObservedTask> for v1::ObservedTask {
    fn from(task: ObservedTask) -> Self {
        use observed_task::Phase;
        let phase = match task.phase {
            TaskPhase::Waiting => Phase::Waiting(v1::TaskWaiting {}),
            TaskPhase::Running { pid, health } => {
                let health = health.map_or(v1::Health::Unspecified, Into::into);
                Phase::Running(v1::TaskRunning { pid, health: health.into() })
            }
            TaskPhase::Exited(exit) => Phase::Exited(exit.into()),
        };
        Self { rank: task.rank.0, phase: Some(phase) }
    }
}

impl TryFrom<v1::ObservedTask> for ObservedTask {
    type Error = InvalidMessage;
    fn try_from(wire: v1::ObservedTask) -> Result<Self, InvalidMessage> {
        use observed_task::Phase;
        let phase = match required(wire.phase, "task.phase")? {
            Phase::Waiting(_) => TaskPhase::Waiting,
            Phase::Running(v1::TaskRunning { pid, health: value }) => {
                TaskPhase::Running { pid, health: health(value)? }
            }
            Phase::Exited(exit) => TaskPhase::Exited(exit.try_into()?),
        };
        Ok(Self { rank: Rank(wire.rank), phase })
    }
}

impl From<Health> for v1::Health {
    fn from(health: Health) -> Self {
        match health {
            Health::Starting => Self::Starting,
            Health::Healthy => Self::Healthy,
            Health::Unhealthy => Self::Unhealthy,
        }
    }
}

fn health(value: i32) -> Result<Option<Health>, InvalidMessage> {
    match v1::Health::try_from(value) {
        Ok(v1::Health::Unspecified) => Ok(None),
        Ok(v1::Health::Starting) => Ok(Some(Health::Starting)),
        Ok(v1::Health::Healthy) => Ok(Some(Health::Healthy)),
        Ok(v1::Health::Unhealthy) => Ok(Some(Health::Unhealthy)),
        Err(_) => Err(invalid("task.health", format!("{value} is not a known value"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_no_more_problems_than_the_ledger_takes() {
        let problem =
            v1::DeviceCondition { device: "GPU-1".into(), name: "GpuLost".into(), ..Default::default() };
        let report = |count| v1::ObservedState {
            device_conditions: vec![problem.clone(); count],
            ..Default::default()
        };
        assert!(ObservedState::try_from(report(MAX_CONDITIONS)).is_ok());
        assert!(ObservedState::try_from(report(MAX_CONDITIONS + 1)).is_err());
    }
}

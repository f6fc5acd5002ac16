//! What the coordinator tells an agent.

use convoke_model::{DesiredReplica, DesiredState, Epoch, Generation, Predecessor, ReplicaGoal, Revision};

use super::spec::collect;
use super::{InvalidMessage, all, choice, id, required};
use crate::v1;
use crate::v1::desired_replica::Goal;

impl From<DesiredState> for v1::DesiredState {
    fn from(desired: DesiredState) -> Self {
        Self {
            cluster_id: desired.cluster.into(),
            epoch: desired.epoch.0,
            revision: desired.revision.0,
            replicas: desired.replicas.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::DesiredState> for DesiredState {
    type Error = InvalidMessage;
    fn try_from(wire: v1::DesiredState) -> Result<Self, InvalidMessage> {
        Ok(Self {
            cluster: id(&wire.cluster_id, "desired.cluster_id")?,
            epoch: Epoch(wire.epoch),
            revision: Revision(wire.revision),
            replicas: all(wire.replicas)?,
        })
    }
}

impl From<DesiredReplica> for v1::DesiredReplica {
    fn from(replica: DesiredReplica) -> Self {
        Self {
            job_id: replica.job.into(),
            generation: replica.generation.0,
            spec: Some(replica.spec.into()),
            placement: Some(replica.placement.into()),
            world_size: replica.world_size,
            node_count: replica.node_count,
            goal: Some(match replica.goal {
                ReplicaGoal::Prepared => Goal::Prepared(v1::GoalPrepared {}),
                ReplicaGoal::Running(rendezvous) => Goal::Running(rendezvous.into()),
                ReplicaGoal::Stopped { grace_ms } => Goal::Stopped(v1::GoalStopped { grace_ms }),
            }),
            resume_from: replica.resume_from.map(Into::into),
            predecessors: replica.predecessors.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::DesiredReplica> for DesiredReplica {
    type Error = InvalidMessage;
    fn try_from(wire: v1::DesiredReplica) -> Result<Self, InvalidMessage> {
        Ok(Self {
            job: id(&wire.job_id, "replica.job_id")?,
            generation: Generation(wire.generation),
            spec: required(wire.spec, "replica.spec")?.try_into()?,
            placement: required(wire.placement, "replica.placement")?.try_into()?,
            world_size: wire.world_size,
            node_count: wire.node_count,
            goal: match required(wire.goal, "replica.goal")? {
                Goal::Prepared(_) => ReplicaGoal::Prepared,
                Goal::Running(rendezvous) => ReplicaGoal::Running(rendezvous.try_into()?),
                Goal::Stopped(stopped) => ReplicaGoal::Stopped { grace_ms: stopped.grace_ms },
            },
            resume_from: wire.resume_from.map(TryInto::try_into).transpose()?,
            predecessors: all(wire.predecessors)?,
        })
    }
}

impl From<Predecessor> for v1::Predecessor {
    fn from(predecessor: Predecessor) -> Self {
        Self {
            job_id: predecessor.job.into(),
            project_dir: predecessor.project_dir,
            collect: v1::Collect::from(predecessor.collect).into(),
            volumes: predecessor.volumes.into_iter().map(Into::into).collect(),
            ended_before: predecessor.ended_before,
        }
    }
}

impl TryFrom<v1::Predecessor> for Predecessor {
    type Error = InvalidMessage;
    fn try_from(wire: v1::Predecessor) -> Result<Self, InvalidMessage> {
        Ok(Self {
            job: id(&wire.job_id, "predecessor.job_id")?,
            project_dir: wire.project_dir,
            collect: choice(wire.collect, "predecessor.collect", collect)?,
            volumes: all(wire.volumes)?,
            ended_before: wire.ended_before,
        })
    }
}

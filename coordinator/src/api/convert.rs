//! Views of the core, as clients see them.

use convoke_core::{DeviceUse, JobView, NodeView, ReplicaView};
use convoke_proto::v1;

pub(super) fn job(view: JobView) -> v1::Job {
    v1::Job {
        id: view.id.into(),
        spec: Some(view.spec.as_ref().clone().into()),
        state: v1::JobState::from(view.state).into(),
        reason: view.reason,
        generation: view.generation.0,
        restarts_infrastructure: view.restarts_infrastructure,
        restarts_application: view.restarts_application,
        submitted_unix_ms: view.submitted.0,
        started_unix_ms: view.started.map(|at| at.0),
        finished_unix_ms: view.finished.map(|at| at.0),
        replicas: view.replicas.into_iter().map(replica).collect(),
        last_failure: view.last_failure.map(|f| v1::Failure::new(f.failure, f.generation)),
        latest_checkpoint: view.latest_checkpoint.map(Into::into),
        world_size: view.world_size,
        resumed_from: view.resumed_from.map(Into::into),
    }
}

fn replica(view: ReplicaView) -> v1::Replica {
    let tasks = view.tasks.into_iter().map(|task| v1::Task::new(task.rank.0, task.phase)).collect();
    v1::Replica {
        tasks,
        progress: view.progress.map(Into::into),
        conditions: view.conditions.into_iter().map(Into::into).collect(),
        ..view.placement.into()
    }
}

/// Without samples of its GPUs.
pub(super) fn node(view: NodeView) -> v1::Node {
    v1::Node {
        info: Some(view.info.into()),
        state: v1::NodeState::from(view.state).into(),
        since_unix_ms: view.since.0,
        conditions: view.conditions.into_iter().map(Into::into).collect(),
        in_use: view.in_use.into_iter().map(device_use).collect(),
        device_conditions: view.device_conditions.into_iter().map(Into::into).collect(),
        gpu_samples: Vec::new(),
    }
}

fn device_use(view: DeviceUse) -> v1::DeviceUse {
    v1::DeviceUse {
        device: view.device.into(),
        job_id: view.job.into(),
        job_name: view.job_name.map(Into::into).unwrap_or_default(),
        rank: view.rank.map(|rank| rank.0),
        generation: view.generation.0,
    }
}

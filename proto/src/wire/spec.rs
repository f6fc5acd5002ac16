//! The job specification.

use std::time::Duration;

use convoke_model::{
    CheckpointPolicy, Collect, Constraint, ConstraintSubject, DeviceCount, DeviceRequest, Framework, JobSpec,
    RankLayout, ResourceLimits, RestartPolicy, Shards, millis,
};

use super::node::device_kind;
use super::{InvalidMessage, choice, id, invalid, required};
use crate::v1;

impl From<JobSpec> for v1::JobSpec {
    fn from(spec: JobSpec) -> Self {
        Self {
            name: spec.name.into(),
            project: spec.project,
            service: spec.service,
            project_dir: spec.project_dir,
            entrypoint: spec.entrypoint.map(|values| v1::StringList { values }),
            command: spec.command,
            environment: spec.environment.into_iter().collect(),
            working_dir: spec.working_dir,
            replicas: spec.replicas,
            devices: Some(spec.devices.into()),
            limits: Some(spec.limits.into()),
            layout: v1::RankLayout::from(spec.layout).into(),
            procs_per_task: spec.procs_per_task,
            framework: v1::Framework::from(spec.framework).into(),
            priority: spec.priority,
            restart: Some(spec.restart.into()),
            stop_signal: spec.stop_signal,
            stop_grace_ms: millis(spec.stop_grace),
            failure_grace_ms: millis(spec.failure_grace),
            time_limit_ms: spec.time_limit.map(millis),
            checkpoint: Some(spec.checkpoint.into()),
            interface: spec.interface,
            fence_ms: spec.fence.map(millis),
            collect: v1::Collect::from(spec.collect).into(),
            preflight: spec.preflight,
            constraints: spec.constraints.into_iter().map(Into::into).collect(),
            image: spec.image,
            container: Some(spec.container.into()),
        }
    }
}

impl TryFrom<v1::JobSpec> for JobSpec {
    type Error = InvalidMessage;
    fn try_from(wire: v1::JobSpec) -> Result<Self, InvalidMessage> {
        let spec = Self {
            name: id(&wire.name, "spec.name")?,
            project: wire.project,
            service: wire.service,
            project_dir: wire.project_dir,
            entrypoint: wire.entrypoint.map(|list| list.values),
            command: wire.command,
            environment: wire.environment.into_iter().collect(),
            working_dir: wire.working_dir,
            replicas: wire.replicas,
            devices: required(wire.devices, "spec.devices")?.try_into()?,
            limits: wire.limits.map(Into::into).unwrap_or_default(),
            layout: choice(wire.layout, "spec.layout", layout)?,
            procs_per_task: wire.procs_per_task,
            framework: choice(wire.framework, "spec.framework", framework)?,
            priority: wire.priority,
            restart: required(wire.restart, "spec.restart")?.into(),
            stop_signal: wire.stop_signal,
            stop_grace: Duration::from_millis(wire.stop_grace_ms),
            failure_grace: Duration::from_millis(wire.failure_grace_ms),
            time_limit: wire.time_limit_ms.map(Duration::from_millis),
            checkpoint: required(wire.checkpoint, "spec.checkpoint")?.try_into()?,
            interface: wire.interface,
            fence: wire.fence_ms.map(Duration::from_millis),
            collect: choice(wire.collect, "spec.collect", collect)?,
            preflight: wire.preflight,
            constraints: wire.constraints.into_iter().map(Into::into).collect(),
            image: wire.image,
            container: wire.container.map(TryInto::try_into).transpose()?.unwrap_or_default(),
        };
        spec.validate().map_err(|e| invalid("spec", e))?;
        Ok(spec)
    }
}

impl From<RankLayout> for v1::RankLayout {
    fn from(layout: RankLayout) -> Self {
        match layout {
            RankLayout::PerNode => Self::PerNode,
            RankLayout::PerGpu => Self::PerGpu,
        }
    }
}

fn layout(wire: v1::RankLayout) -> Option<RankLayout> {
    match wire {
        v1::RankLayout::Unspecified => None,
        v1::RankLayout::PerNode => Some(RankLayout::PerNode),
        v1::RankLayout::PerGpu => Some(RankLayout::PerGpu),
    }
}

impl From<Framework> for v1::Framework {
    fn from(framework: Framework) -> Self {
        match framework {
            Framework::Torch => Self::Torch,
            Framework::Jax => Self::Jax,
            Framework::Tensorflow => Self::Tensorflow,
        }
    }
}

fn framework(wire: v1::Framework) -> Option<Framework> {
    match wire {
        v1::Framework::Unspecified => None,
        v1::Framework::Torch => Some(Framework::Torch),
        v1::Framework::Jax => Some(Framework::Jax),
        v1::Framework::Tensorflow => Some(Framework::Tensorflow),
    }
}

impl From<Collect> for v1::Collect {
    fn from(collect: Collect) -> Self {
        match collect {
            Collect::NodeRankZero => Self::NodeRankZero,
            Collect::All => Self::All,
        }
    }
}

pub(super) fn collect(wire: v1::Collect) -> Option<Collect> {
    match wire {
        v1::Collect::Unspecified => None,
        v1::Collect::NodeRankZero => Some(Collect::NodeRankZero),
        v1::Collect::All => Some(Collect::All),
    }
}

impl From<DeviceRequest> for v1::DeviceRequest {
    fn from(request: DeviceRequest) -> Self {
        use v1::device_request::Count;
        Self {
            kind: v1::DeviceKind::from(request.kind).into(),
            count: Some(match request.count {
                DeviceCount::Count(n) => Count::Exactly(n),
                DeviceCount::All => Count::All(true),
                DeviceCount::Ids(values) => Count::Ids(v1::StringList { values }),
            }),
        }
    }
}

impl TryFrom<v1::DeviceRequest> for DeviceRequest {
    type Error = InvalidMessage;
    fn try_from(wire: v1::DeviceRequest) -> Result<Self, InvalidMessage> {
        use v1::device_request::Count;
        Ok(Self {
            kind: device_kind(wire.kind, "devices.kind")?,
            count: match required(wire.count, "devices.count")? {
                Count::Exactly(n) => DeviceCount::Count(n),
                Count::All(true) => DeviceCount::All,
                Count::All(false) => return Err(invalid("devices.all", "must be true where it is given")),
                Count::Ids(list) => DeviceCount::Ids(list.values),
            },
        })
    }
}

impl From<ResourceLimits> for v1::ResourceLimits {
    fn from(limits: ResourceLimits) -> Self {
        Self { milli_cpus: limits.milli_cpus, memory: limits.memory, pids: limits.pids }
    }
}

impl From<v1::ResourceLimits> for ResourceLimits {
    fn from(wire: v1::ResourceLimits) -> Self {
        Self { milli_cpus: wire.milli_cpus, memory: wire.memory, pids: wire.pids }
    }
}

impl From<RestartPolicy> for v1::RestartPolicy {
    fn from(policy: RestartPolicy) -> Self {
        Self {
            infrastructure: policy.infrastructure,
            application: policy.application,
            delay_ms: millis(policy.delay),
            after_success: policy.after_success,
        }
    }
}

impl From<v1::RestartPolicy> for RestartPolicy {
    fn from(wire: v1::RestartPolicy) -> Self {
        Self {
            infrastructure: wire.infrastructure,
            application: wire.application,
            delay: Duration::from_millis(wire.delay_ms),
            after_success: wire.after_success,
        }
    }
}

impl From<CheckpointPolicy> for v1::CheckpointPolicy {
    fn from(policy: CheckpointPolicy) -> Self {
        let shards = match policy.shards {
            Shards::RankZero => v1::Shards::RankZero,
            Shards::All => v1::Shards::All,
        };
        Self { dir: policy.dir, keep: policy.keep, shards: shards.into() }
    }
}

impl TryFrom<v1::CheckpointPolicy> for CheckpointPolicy {
    type Error = InvalidMessage;
    fn try_from(wire: v1::CheckpointPolicy) -> Result<Self, InvalidMessage> {
        let shards = choice(wire.shards, "checkpoint.shards", |shards: v1::Shards| match shards {
            v1::Shards::Unspecified => None,
            v1::Shards::RankZero => Some(Shards::RankZero),
            v1::Shards::All => Some(Shards::All),
        })?;
        Ok(Self { dir: wire.dir, keep: wire.keep, shards })
    }
}

impl From<Constraint> for v1::Constraint {
    fn from(constraint: Constraint) -> Self {
        let (label, on_node_id) = match constraint.subject {
            ConstraintSubject::Hostname => (None, false),
            ConstraintSubject::Id => (None, true),
            ConstraintSubject::Label(label) => (Some(label), false),
        };
        Self { label, equal: constraint.equal, value: constraint.value, on_node_id }
    }
}

impl From<v1::Constraint> for Constraint {
    fn from(wire: v1::Constraint) -> Self {
        let subject = match (wire.label, wire.on_node_id) {
            (Some(label), _) => ConstraintSubject::Label(label),
            (None, true) => ConstraintSubject::Id,
            (None, false) => ConstraintSubject::Hostname,
        };
        Self { subject, equal: wire.equal, value: wire.value }
    }
}

//! What readers see of the state.

use std::sync::Arc;

use convoke_model::{
    Checkpoint, CheckpointRef, Condition, DesiredReplica, DesiredState, DeviceCondition, DeviceId,
    Generation, GroupName, JobId, JobName, JobSpec, JobState, NodeId, NodeInfo, NodeState, ObservedReplica,
    ObservedTask, Placement, Progress, Rank, ReplicaGoal, ReplicaPlacement, TaskPhase, Timestamp,
};

use crate::rendezvous::task_ranks;
use crate::settle::is_current;
use crate::{
    Core, Denied, FailedGeneration, Job, MAX_ACTIVE_JOBS, Node, Phase, Stage, State, UniqueId, checkpoints,
};

/// A job as clients see it.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    pub id: JobId,
    pub spec: Arc<JobSpec>,
    pub state: JobState,
    /// Why it waits, or how it ended; may be empty.
    pub reason: String,
    /// 0 before the first start.
    pub generation: Generation,
    pub restarts_infrastructure: u32,
    pub restarts_application: u32,
    pub submitted: Timestamp,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    /// Of the current, or last, generation; empty before the first.
    pub replicas: Vec<ReplicaView>,
    pub world_size: u32,
    pub last_failure: Option<FailedGeneration>,
    pub latest_checkpoint: Option<CheckpointRef>,
    /// The checkpoint that the current, or last, generation started from.
    pub resumed_from: Option<CheckpointRef>,
}

/// A replica and its tasks, one per task in rank order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaView {
    pub placement: ReplicaPlacement,
    pub tasks: Vec<ObservedTask>,
    /// Of its preparation, while that takes a while.
    pub progress: Option<Progress>,
    pub conditions: Vec<Condition>,
}

/// A node as clients see it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    pub info: NodeInfo,
    pub state: NodeState,
    pub since: Timestamp,
    pub conditions: Vec<Condition>,
    pub device_conditions: Vec<DeviceCondition>,
    pub in_use: Vec<DeviceUse>,
}

/// A device that is taken, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceUse {
    pub device: DeviceId,
    pub job: JobId,
    /// `None` when the job is forgotten.
    pub job_name: Option<JobName>,
    pub generation: Generation,
    /// The rank that uses it, where each device has a rank of its own.
    pub rank: Option<Rank>,
}

/// Where a job would be placed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The placement, or why there is none now.
    pub placement: Result<Placement, String>,
    /// It could not be placed on the registered nodes even if all were idle.
    pub never_fits: bool,
}

impl Core {
    /// What the node should run, whole. `None` for a node that is not registered.
    pub fn desired(&self, node: &NodeId) -> Option<DesiredState> {
        let cluster = self.state.cluster.clone()?;
        let registered = self.state.nodes.contains_key(node);
        let replicas =
            self.state.jobs.values().filter_map(|job| desired_replica(&self.state, job, node)).collect();
        let (epoch, revision) = (self.state.epoch, self.state.revision);
        registered.then_some(DesiredState { cluster, epoch, revision, replicas })
    }

    pub fn job(&self, job: &JobId) -> Option<JobView> {
        self.state.jobs.get(job).map(|job| self.view_job(job))
    }

    /// One job by id, by name (the newest of that name), by its Compose service where only one name has
    /// it, or by a unique prefix of id or name. Where the last two mean several, one that has not ended is meant.
    pub fn find_job(&self, query: &str) -> Result<JobId, Denied> {
        let mut jobs: Vec<&Job> = self.state.jobs.values().map(|job| &**job).collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.order));
        let exact = jobs.iter().find(|job| job.id.as_str() == query);
        if let Some(job) = exact.or_else(|| jobs.iter().find(|job| job.spec.name.as_str() == query)) {
            return Ok(job.id.clone());
        }
        let unknown = || Denied::UnknownJob(query.chars().take(128).collect());
        let starts = |text: &str| !query.is_empty() && text.starts_with(query);
        let of_service = jobs.iter().any(|job| job.spec.service == query);
        // Several jobs of one name are one answer: the newest.
        let meaning = |job: &Job| match (starts(job.spec.name.as_str()), starts(job.id.as_str())) {
            _ if of_service => (job.spec.service == query).then(|| job.spec.name.to_string()),
            (true, _) => Some(job.spec.name.to_string()),
            (false, true) => Some(job.id.to_string()),
            (false, false) => None,
        };
        let found: Vec<_> = jobs.iter().filter_map(|job| Some((*job, meaning(job)?))).collect();
        let goes_on = found.iter().filter(|(job, _)| !job.run.phase.is_final()).cloned().collect::<Vec<_>>();
        let found = if goes_on.is_empty() { found } else { goes_on };
        let (first, meant) = found.first().ok_or_else(unknown)?;
        match found.iter().find(|(_, other)| other != meant) {
            None => Ok(first.id.clone()),
            Some((other, _)) => Err(Denied::AmbiguousJob {
                prefix: query.chars().take(128).collect(),
                first: format!("{} ({})", first.spec.name, first.id),
                second: format!("{} ({})", other.spec.name, other.id),
            }),
        }
    }

    /// Every job that is remembered, newest first.
    pub fn jobs(&self) -> Vec<JobView> {
        let mut jobs: Vec<&Job> = self.state.jobs.values().map(|job| &**job).collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.order));
        jobs.into_iter().map(|job| self.view_job(job)).collect()
    }

    /// Every registered node, by name.
    pub fn nodes(&self, now: Timestamp) -> Vec<NodeView> {
        self.state.nodes.values().map(|node| self.view_node(node, now)).collect()
    }

    /// Where a job would be placed now, or why not, if those `before` it were submitted first.
    pub fn plan(&self, now: Timestamp, spec: &JobSpec, before: &[JobSpec]) -> Result<Plan, Denied> {
        crate::submit::validate(spec)?;
        before.iter().try_for_each(crate::submit::validate)?;
        if before.len() >= MAX_ACTIVE_JOBS {
            return Err(Denied::TooManyJobs);
        }
        let draft = self.draft(now);
        Ok(Plan { placement: draft.plan(spec, before), never_fits: draft.never_fits(spec).is_some() })
    }

    /// Nodes that could hold a replica of the job if they were idle, by name; not those that are lost.
    pub fn could_hold(&self, now: Timestamp, spec: &JobSpec) -> Result<Vec<NodeId>, Denied> {
        crate::submit::validate(spec)?;
        Ok(self.draft(now).could_hold(spec))
    }

    /// The unique id of a group, if it is published; `StaleGeneration` if it never will be.
    pub fn unique_id(
        &self,
        job: &JobId,
        generation: Generation,
        group: &GroupName,
    ) -> Result<Option<&UniqueId>, Denied> {
        match self.state.jobs.get(job) {
            Some(found) if is_current(found, generation) => Ok(found.unique_ids.get(group)),
            Some(_) => Err(Denied::StaleGeneration { job: job.clone(), generation }),
            None => Err(Denied::UnknownJob(job.to_string())),
        }
    }

    /// A job's checkpoints, newest first; empty for an unknown job.
    pub fn checkpoints(&self, job: &JobId) -> Vec<&Checkpoint> {
        let job = self.state.jobs.get(job);
        let mut found: Vec<&Checkpoint> = job.into_iter().flat_map(|job| &job.checkpoints).collect();
        found.sort_by_key(|c| std::cmp::Reverse((c.reference.generation, c.reference.step)));
        found
    }

    pub fn checkpoint(&self, reference: &CheckpointRef) -> Option<&Checkpoint> {
        self.state.checkpoint(reference)
    }

    /// Whether a shard would be accepted: asked before its bytes are received.
    pub fn expects_shard(&self, reference: &CheckpointRef, rank: Rank) -> Result<(), Denied> {
        let job = self.state.jobs.get(&reference.job);
        let job = job.ok_or_else(|| Denied::UnknownJob(reference.job.to_string()))?;
        checkpoints::check_shard(job, reference, rank)
    }

    /// True while work of this generation is accepted.
    pub fn is_current(&self, job: &JobId, generation: Generation) -> bool {
        self.state.jobs.get(job).is_some_and(|job| is_current(job, generation))
    }

    fn view_job(&self, job: &Job) -> JobView {
        let placement = job.run.gang.as_ref().map(|gang| &gang.placement);
        let replicas = placement.into_iter().flat_map(|p| &p.replicas).map(|r| self.view_replica(job, r));
        JobView {
            id: job.id.clone(),
            spec: Arc::clone(&job.spec),
            state: job.run.phase.state(),
            reason: job.run.phase.reason().to_owned(),
            generation: job.run.generation,
            restarts_infrastructure: job.run.restarts_infrastructure,
            restarts_application: job.run.restarts_application,
            submitted: job.submitted,
            started: job.run.started,
            finished: job.run.finished,
            replicas: replicas.collect(),
            world_size: placement.map_or(0, Placement::world_size),
            last_failure: job.run.last_failure.clone(),
            latest_checkpoint: job.latest_checkpoint().map(|c| c.reference.clone()),
            resumed_from: job.run.gang.as_ref().and_then(|gang| gang.resume_from.clone()),
        }
    }

    fn view_replica(&self, job: &Job, replica: &ReplicaPlacement) -> ReplicaView {
        let gang = job.run.gang.as_ref().filter(|_| !job.run.phase.has_gang());
        let reported = self.state.nodes.get(&replica.node).into_iter().flat_map(|n| &n.observed.replicas);
        let current = reported.filter(|o| {
            (&o.key.job, o.key.generation, o.key.node_rank)
                == (&job.id, job.run.generation, replica.node_rank)
        });
        let current: Vec<&ObservedReplica> = current.collect();
        let known: Vec<&ObservedTask> = match gang {
            Some(gang) => gang.tasks.iter().collect(),
            None => current.iter().flat_map(|o| &o.tasks).collect(),
        };
        let tasks = task_ranks(replica, replica.task_count(&job.spec)).map(|rank| {
            let task = known.iter().find(|task| task.rank == rank);
            task.map_or(ObservedTask { rank, phase: TaskPhase::Waiting }, |task| (*task).clone())
        });
        let progress = current.first().and_then(|o| o.progress.clone());
        let conditions = current.iter().flat_map(|o| o.conditions.clone()).collect();
        ReplicaView { tasks: tasks.collect(), placement: replica.clone(), progress, conditions }
    }

    fn view_node(&self, node: &Node, now: Timestamp) -> NodeView {
        let state = self.sessions.state(&self.config, node, now);
        let ghosts = node.ghosts.iter().map(|g| (&g.key.job, g.key.generation, &g.devices, None));
        let gangs = self.state.jobs.values().filter(|job| job.run.phase.has_gang()).flat_map(|job| {
            let replicas = job.run.gang.iter().flat_map(|gang| &gang.placement.replicas);
            let mine = replicas.filter(|replica| replica.node == node.info.id);
            mine.map(|replica| (&job.id, job.run.generation, &replica.devices, first_of_ranks(replica)))
        });
        let in_use = gangs.chain(ghosts).flat_map(|(job, generation, devices, first)| {
            (0..).zip(devices).map(move |(n, device)| DeviceUse {
                device: device.clone(),
                job: job.clone(),
                job_name: self.state.jobs.get(job).map(|job| job.spec.name.clone()),
                generation,
                rank: first.map(|Rank(first)| Rank(first + n)),
            })
        });
        NodeView {
            info: node.info.clone(),
            state,
            since: node.lost.unwrap_or_else(|| self.sessions.since(&node.info.id)),
            conditions: node.observed.conditions.clone(),
            device_conditions: node.observed.device_conditions.clone(),
            in_use: in_use.collect(),
        }
    }
}

/// The first of its ranks, if each device has one.
fn first_of_ranks(replica: &ReplicaPlacement) -> Option<Rank> {
    let of_devices = u32::try_from(replica.devices.len()) == Ok(replica.local_world);
    of_devices.then_some(replica.first_rank)
}

fn desired_replica(state: &State, job: &Job, node: &NodeId) -> Option<DesiredReplica> {
    let goal = match &job.run.phase {
        Phase::Starting(starting) => match &starting.stage {
            Stage::Preparing => ReplicaGoal::Prepared,
            Stage::Released(release) => ReplicaGoal::Running(release.rendezvous.clone()),
        },
        Phase::Running(running) => ReplicaGoal::Running(running.release.rendezvous.clone()),
        Phase::Draining(draining) => ReplicaGoal::Stopped { grace_ms: draining.grace_ms },
        Phase::Queued(_) | Phase::Succeeded | Phase::Failed { .. } | Phase::Stopped { .. } => return None,
    };
    let gang = job.run.gang.as_ref()?;
    let placement = gang.placement.replicas.iter().find(|replica| replica.node == *node)?;
    Some(DesiredReplica {
        job: job.id.clone(),
        generation: job.run.generation,
        spec: JobSpec::clone(&job.spec),
        placement: placement.clone(),
        world_size: gang.placement.world_size(),
        node_count: u32::try_from(gang.placement.replicas.len()).expect("at most MAX_REPLICAS"),
        goal,
        resume_from: gang.resume_from.clone(),
        predecessors: state.predecessors(job),
    })
}

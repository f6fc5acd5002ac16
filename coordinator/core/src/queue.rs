//! The queue: by priority, then in order of submission.
//!
//! A job that only waits for devices to become free keeps every node that it could use: jobs
//! behind it go elsewhere or wait. So small jobs never starve a large one, and a job that waits
//! for something else (nodes that are not there, a pause, the end of the job it replaces) holds
//! nobody up. Devices that may never become free (of replicas that are not known to have ended,
//! or whose drain is overdue) do not count as becoming free.

use std::collections::{BTreeMap, BTreeSet};

use convoke_model::{
    Condition, DeviceId, DeviceKind, EventLevel, Generation, JobId, JobName, NodeId, NodeState, Placement,
};

use crate::depends::Dependencies;
use crate::draft::Draft;
use crate::place::{self, Candidate};
use crate::{Gang, Job, Phase, Queued, Stage, Starting};

/// Which jobs in front keep which nodes.
type Kept = BTreeMap<(NodeId, DeviceKind), JobName>;

/// A node's devices that are taken.
#[derive(Default)]
struct Holds {
    /// By gangs that will end.
    passing: BTreeSet<DeviceId>,
    /// By replicas that may never end.
    stuck: BTreeSet<DeviceId>,
}

type HoldsByNode = BTreeMap<NodeId, Holds>;

impl Draft<'_> {
    /// Places what can be placed. A job that fails for want of another may fail a third, which is seen
    /// in the next round; each round but the last ends a job.
    pub(crate) fn schedule(&mut self) {
        while self.schedule_round() {}
    }

    /// True if a job failed.
    fn schedule_round(&mut self) -> bool {
        let mut any_failed = false;
        let mut waiting: Vec<&Job> = self
            .state
            .jobs
            .values()
            .map(|j| &**j)
            .filter(|j| matches!(j.run.phase, Phase::Queued(_)))
            .collect();
        waiting.sort_by_key(|job| (std::cmp::Reverse(job.spec.priority), job.order));
        let waiting: Vec<JobId> = waiting.into_iter().map(|job| job.id.clone()).collect();
        let mut kept = Kept::new();
        let mut holds = self.holds();
        for id in waiting {
            if let Some(reason) = self.pause(&id) {
                self.wait(&id, reason);
                continue;
            }
            match self.dependencies(self.job(&id)) {
                Dependencies::Met => {}
                Dependencies::Waiting(reason) => {
                    self.wait(&id, reason);
                    continue;
                }
                Dependencies::Broken(reason) => {
                    let phase = Phase::Failed { reason: reason.clone() };
                    self.finish(&id, phase, EventLevel::Warning, "JobFailed", &reason);
                    any_failed = true;
                    continue;
                }
            }
            match self.find_place(&id, &holds, &mut kept) {
                Ok(placement) => {
                    self.start(&id, placement);
                    holds = self.holds();
                }
                Err(reason) => self.wait(&id, reason),
            }
        }
        any_failed
    }

    /// Why it is not its turn whatever is free.
    fn pause(&mut self, id: &JobId) -> Option<String> {
        let Phase::Queued(queued) = &self.job(id).run.phase else { return None };
        if let Some(until) = queued.not_before {
            if self.now < until {
                return Some(queued.reason.clone());
            }
            self.edit_queued(id, |queued| queued.not_before = None);
            return self.pause(id);
        }
        let job = |id| self.state.jobs.get(id);
        let unended = queued.after.iter().filter_map(job).find(|job| !job.run.phase.is_final());
        if let Some(old) = unended {
            return Some(format!("waits for job {} to end, which it replaces", old.id));
        }
        if !queued.after.is_empty() {
            let heirloom = queued
                .after
                .iter()
                .rev()
                .filter_map(job)
                .find_map(|job| self.state.resume_point(job))
                .cloned();
            self.edit(id, |run| run.inherited = heirloom);
            self.edit_queued(id, |queued| queued.after.clear());
        }
        None
    }

    fn find_place(&self, id: &JobId, holds: &HoldsByNode, kept: &mut Kept) -> Result<Placement, String> {
        let job = self.job(id);
        let Phase::Queued(queued) = &job.run.phase else { return Err("is not queued".to_owned()) };
        let mut candidates = self.candidates(holds, &queued.avoid);
        let all = candidates.clone();
        let kind = job.spec.devices.kind;
        let mut ahead = None;
        candidates.retain(|c| match kept.get(&(c.info.id.clone(), kind)) {
            None => true,
            Some(by) => {
                ahead = Some(by.clone());
                false
            }
        });
        let reason = match place::place(&job.spec, &candidates) {
            Ok(placement) => return Ok(placement),
            Err(reason) => reason,
        };
        let now = place::place(&job.spec, &all);
        let idle = self.without_passing(holds, &all);
        if place::place(&job.spec, &idle).is_ok() {
            let usable = idle.iter().filter(|c| place::is_eligible(&job.spec, c));
            for candidate in usable {
                kept.entry((candidate.info.id.clone(), kind)).or_insert_with(|| job.spec.name.clone());
            }
        }
        match (now, ahead) {
            (Ok(_), Some(ahead)) => Err(format!("waits its turn behind job \"{ahead}\"")),
            (Err(reason), _) => Err(reason),
            (Ok(_), None) => Err(reason),
        }
    }

    fn start(&mut self, id: &JobId, placement: Placement) {
        let resume_from = self.state.resume_point(self.job(id)).cloned();
        let deadline = self.now.after(self.config.prepare_timeout);
        let parts: Vec<String> = (placement.replicas.iter())
            .map(|r| match r.local_world {
                1 => format!("{} (rank {})", r.node, r.first_rank),
                n => format!("{} (ranks {}-{})", r.node, r.first_rank, r.first_rank.0 + n - 1),
            })
            .collect();
        let from =
            resume_from.as_ref().map_or(String::new(), |c| format!(", from checkpoint step {}", c.step));
        let job = self.job(id);
        let files_of = match job.run.generation {
            Generation(0) => self.files_of(job),
            _ => job.run.files_of.clone(),
        };
        self.edit(id, |run| {
            run.files_of = files_of;
            run.generation = run.generation.next();
            run.gang = Some(Gang { placement, resume_from, tasks: Vec::new() });
            run.phase = Phase::Starting(Starting { deadline, stage: Stage::Preparing });
        });
        self.touch_gang(id);
        let message = format!("generation {} on {}{from}", self.job(id).run.generation, parts.join(", "));
        self.tell_job(EventLevel::Info, "GenerationPlaced", id, message);
        self.prune_checkpoints(id);
    }

    /// Notes why the job waits; history has it when it changes.
    fn wait(&mut self, id: &JobId, reason: String) {
        if self.job(id).run.phase.reason() == reason {
            return;
        }
        self.edit_queued(id, |queued| queued.reason.clone_from(&reason));
        self.tell_job(EventLevel::Info, "JobQueued", id, reason);
    }

    fn edit_queued(&mut self, id: &JobId, edit: impl FnOnce(&mut Queued)) {
        self.edit(id, |run| {
            if let Phase::Queued(queued) = &mut run.phase {
                edit(queued);
            }
        });
    }

    fn holds(&self) -> HoldsByNode {
        let mut holds = HoldsByNode::new();
        for job in self.state.jobs.values().filter(|job| job.run.phase.has_gang()) {
            let stuck = matches!(&job.run.phase, Phase::Draining(draining) if draining.overdue_told);
            for replica in job.run.gang.iter().flat_map(|gang| &gang.placement.replicas) {
                let node = holds.entry(replica.node.clone()).or_default();
                let devices = if stuck { &mut node.stuck } else { &mut node.passing };
                devices.extend(replica.devices.iter().cloned());
            }
        }
        for node in self.state.nodes.values() {
            let devices = node.ghosts.iter().flat_map(|ghost| ghost.devices.iter().cloned());
            holds.entry(node.info.id.clone()).or_default().stuck.extend(devices);
        }
        holds
    }

    fn candidates<'b>(&'b self, holds: &HoldsByNode, avoid: &[NodeId]) -> Vec<Candidate<'b>> {
        let candidate = |node: &'b std::sync::Arc<crate::Node>| {
            let barred = match self.node_state(node) {
                NodeState::Ready => None,
                NodeState::Suspect => Some("is suspect".to_owned()),
                NodeState::Unknown => Some("has not reconnected yet".to_owned()),
                NodeState::Lost => Some("is lost".to_owned()),
            };
            let held = holds.get(&node.info.id);
            let has = |name| node.observed.conditions.iter().any(|c| c.name == name);
            let problems = &node.observed.device_conditions;
            let blocking = problems.iter().filter(|problem| problem.blocks);
            Candidate {
                info: &node.info,
                barred,
                held: held.map_or_else(BTreeSet::new, |h| h.passing.union(&h.stuck).cloned().collect()),
                blocked: blocking.map(|problem| (problem.device.clone(), problem.name.clone())).collect(),
                doubtful: problems.iter().map(|problem| problem.device.clone()).collect(),
                engine_down: has(Condition::DOCKER_DOWN),
                nvml_down: has(Condition::NVML_DOWN),
                last_resort: !node.observed.conditions.is_empty() || avoid.contains(&node.info.id),
            }
        };
        self.state.nodes.values().map(candidate).collect()
    }

    /// The same nodes once every gang that will end has ended.
    fn without_passing<'b>(&self, holds: &HoldsByNode, candidates: &[Candidate<'b>]) -> Vec<Candidate<'b>> {
        let stuck = |id| holds.get(id).map_or_else(BTreeSet::new, |h| h.stuck.clone());
        candidates.iter().cloned().map(|c| Candidate { held: stuck(&c.info.id), ..c }).collect()
    }

    /// Where the spec would go now, as the last in the queue of its priority and after those `before` it.
    pub(crate) fn plan(
        &self,
        spec: &convoke_model::JobSpec,
        before: &[convoke_model::JobSpec],
    ) -> Result<Placement, String> {
        let mut candidates = self.candidates(&self.holds(), &[]);
        for other in before {
            let Ok(placement) = place::place(other, &candidates) else { continue };
            for replica in placement.replicas {
                let node = candidates.iter_mut().find(|candidate| candidate.info.id == replica.node);
                node.into_iter().for_each(|node| node.held.extend(replica.devices.iter().cloned()));
            }
        }
        place::place(spec, &candidates)
    }

    /// Why the registered nodes could not hold it even idle. Nodes that are lost count: whether a
    /// submit is refused for ever must not depend on which host reboots just now.
    pub(crate) fn never_fits(&self, spec: &convoke_model::JobSpec) -> Option<String> {
        if self.state.nodes.is_empty() {
            return None;
        }
        let candidates: Vec<Candidate<'_>> = self.state.nodes.values().map(|node| idle(node)).collect();
        place::place(spec, &candidates).err()
    }

    /// Nodes that could hold a replica if they were idle, and are not lost.
    pub(crate) fn could_hold(&self, spec: &convoke_model::JobSpec) -> Vec<NodeId> {
        let could = |node: &&std::sync::Arc<crate::Node>| {
            self.node_state(node) != NodeState::Lost && place::is_eligible(spec, &idle(node))
        };
        self.state.nodes.values().filter(could).map(|node| node.info.id.clone()).collect()
    }
}

/// The node as if nothing ran there, and it were reachable.
fn idle(node: &crate::Node) -> Candidate<'_> {
    Candidate {
        info: &node.info,
        barred: None,
        held: BTreeSet::new(),
        blocked: BTreeMap::new(),
        doubtful: BTreeSet::new(),
        engine_down: false,
        nvml_down: false,
        last_resort: false,
    }
}

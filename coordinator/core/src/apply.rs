//! Taking changes over. No decision is made here, so that a replay of the ledger gives the same
//! state; a change about something that is gone is without effect.

use std::sync::Arc;

use convoke_model::{Checkpoint, JobId, NodeId, ObservedState, Timestamp};

use crate::{Change, Effect, Job, Node, State};

impl State {
    pub(crate) fn take(&mut self, at: Timestamp, change: &Change) {
        match change {
            Change::Started { cluster, epoch } => {
                self.cluster = Some(cluster.clone());
                self.epoch = *epoch;
            }
            Change::NodeRegistered { .. }
            | Change::NodeObserved { .. }
            | Change::NodeLost { .. }
            | Change::NodeForgotten { .. }
            | Change::NodeGhosts { .. } => self.take_node(at, change),
            Change::JobSubmitted { job } => {
                self.submitted = job.order;
                self.jobs.insert(job.id.clone(), Arc::new(Job::clone(job)));
            }
            Change::JobRun { job, run } => self.with_job(job, |job| job.run.clone_from(run)),
            Change::JobForgotten { job } => {
                self.jobs.remove(job);
            }
            Change::UniqueId { job, group, id, .. } => self.with_job(job, |job| {
                job.unique_ids.insert(group.clone(), id.clone());
            }),
            Change::GenerationEnded { job, .. } => self.with_job(job, |job| job.unique_ids.clear()),
            Change::Checkpoint { checkpoint } => {
                self.with_job(&checkpoint.reference.job, |job| put_checkpoint(job, checkpoint));
            }
            Change::CheckpointDeleted { reference } => {
                self.with_job(&reference.job, |job| job.checkpoints.retain(|c| c.reference != *reference));
            }
            Change::Desired { revision, .. } => self.revision = *revision,
        }
    }

    fn take_node(&mut self, at: Timestamp, change: &Change) {
        match change {
            Change::NodeRegistered { info, instance } => {
                let old = self.nodes.get(&info.id);
                let same = old.filter(|old| old.instance == *instance);
                let node = Node {
                    info: info.clone(),
                    instance: instance.clone(),
                    registered: old.map_or(at, |old| old.registered),
                    lost: None,
                    observed: same.map_or_else(ObservedState::default, |old| ObservedState {
                        applied: None,
                        ..old.observed.clone()
                    }),
                    ghosts: old.map_or_else(Vec::new, |old| old.ghosts.clone()),
                };
                self.nodes.insert(info.id.clone(), Arc::new(node));
            }
            Change::NodeObserved { node, observed } => {
                self.with_node(node, |node| node.observed.clone_from(observed));
            }
            Change::NodeLost { node } => self.with_node(node, |node| node.lost = Some(at)),
            Change::NodeGhosts { node, ghosts } => {
                self.with_node(node, |node| node.ghosts.clone_from(ghosts));
            }
            Change::NodeForgotten { node } => {
                self.nodes.remove(node);
            }
            _ => {}
        }
    }

    fn with_job(&mut self, id: &JobId, edit: impl FnOnce(&mut Job)) {
        if let Some(job) = self.jobs.get_mut(id) {
            edit(Arc::make_mut(job));
        }
    }

    fn with_node(&mut self, id: &NodeId, edit: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(id) {
            edit(Arc::make_mut(node));
        }
    }
}

fn put_checkpoint(job: &mut Job, checkpoint: &Checkpoint) {
    match job.checkpoints.iter_mut().find(|c| c.reference == checkpoint.reference) {
        Some(old) => old.clone_from(checkpoint),
        None => job.checkpoints.push(checkpoint.clone()),
    }
}

impl Change {
    /// What the shell does about it.
    pub(crate) fn effects(&self, effects: &mut Vec<Effect>) {
        match self {
            Self::Started { .. } => {}
            Self::NodeRegistered { info, .. } => effects.push(Effect::NodeChanged(info.id.clone())),
            Self::NodeObserved { node, observed } => {
                effects.push(Effect::NodeChanged(node.clone()));
                effects.extend(observed.replicas.iter().map(|r| Effect::JobChanged(r.key.job.clone())));
            }
            Self::NodeLost { node } => {
                effects.push(Effect::NodeLost(node.clone()));
                effects.push(Effect::NodeChanged(node.clone()));
            }
            Self::NodeForgotten { node } | Self::NodeGhosts { node, .. } => {
                effects.push(Effect::NodeChanged(node.clone()));
            }
            Self::JobSubmitted { job } => effects.push(Effect::JobChanged(job.id.clone())),
            Self::JobRun { job, .. } => effects.push(Effect::JobChanged(job.clone())),
            Self::JobForgotten { job } => effects.push(Effect::JobForgotten(job.clone())),
            Self::UniqueId { job, generation, group, .. } => effects.push(Effect::UniqueIdSet {
                job: job.clone(),
                generation: *generation,
                group: group.clone(),
            }),
            Self::GenerationEnded { job, generation } => {
                effects.push(Effect::GenerationEnded { job: job.clone(), generation: *generation });
            }
            Self::Checkpoint { checkpoint } => {
                effects.push(Effect::CheckpointChanged(checkpoint.reference.clone()));
                effects.push(Effect::JobChanged(checkpoint.reference.job.clone()));
            }
            Self::CheckpointDeleted { reference } => {
                effects.push(Effect::DeleteCheckpoint(reference.clone()));
            }
            Self::Desired { nodes, .. } => {
                effects.extend(nodes.iter().cloned().map(Effect::DesiredChanged));
            }
        }
    }
}

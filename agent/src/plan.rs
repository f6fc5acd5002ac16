//! What to do next, decided without doing it: pure, level-triggered, the same answer for the same
//! question.
//!
//! The plan never starts a replica whose devices another one holds, nor a generation while another
//! one of its job holds any here; it never touches a replica that a worker is busy with, except to
//! make it stop sooner.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use convoke_model::{
    DesiredState, DeviceId, Generation, JobId, Rendezvous, ReplicaGoal, ReplicaKey, Timestamp,
};

use crate::replica::{Known, Replica, Stage};

/// A task that is still there so long after its grace was not reached by the request: it is asked
/// again, now without grace. Long enough for a shim on a loaded host to do what it was told.
pub const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// One step of one replica.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Reserve what it needs: then it is ready, or refused.
    Prepare(ReplicaKey),
    /// Start the tasks that were not started yet.
    Start(ReplicaKey, Rendezvous),
    /// Give up the start, at once; what it has begun is stopped next.
    Cancel(ReplicaKey),
    /// End every task.
    Stop(ReplicaKey, Duration),
    /// Give up what was prepared; nothing was started.
    Abandon(ReplicaKey),
    /// No task is left: see its checkpoints off.
    Finish(ReplicaKey),
    /// Forget it and its files.
    Remove(ReplicaKey),
}

/// Every step that may be taken now, at most one per replica.
pub fn plan(desired: &DesiredState, known: &Known, now: Timestamp) -> Vec<Action> {
    let goals: BTreeMap<ReplicaKey, &ReplicaGoal> =
        desired.replicas.iter().map(|r| (r.key(), &r.goal)).collect();
    let mut holders = Holders::of(known);
    let mut actions = Vec::new();
    for (key, replica) in known {
        let goal = goals.get(key).copied();
        let may_prepare = replica.stage == Stage::Queued
            && matches!(goal, Some(ReplicaGoal::Prepared | ReplicaGoal::Running(_)));
        if may_prepare {
            if holders.take(key, replica) {
                actions.push(Action::Prepare((*key).clone()));
            }
        } else {
            actions.extend(step(key, replica, goal, now));
        }
    }
    actions
}

fn step(key: &ReplicaKey, replica: &Replica, goal: Option<&ReplicaGoal>, now: Timestamp) -> Option<Action> {
    let key = || key.clone();
    // How long its tasks get when they must go; `None` while they may stay.
    let grace = match goal {
        None => Some(replica.desired.spec.failure_grace),
        Some(ReplicaGoal::Stopped { grace_ms }) => Some(Duration::from_millis(*grace_ms)),
        Some(ReplicaGoal::Prepared | ReplicaGoal::Running(_)) => None,
    };
    match (&replica.stage, goal, grace) {
        (Stage::Queued | Stage::Preparing | Stage::Ready(_) | Stage::Refused { .. }, None, _) => {
            Some(Action::Remove(key()))
        }
        (Stage::Queued | Stage::Preparing | Stage::Ready(_) | Stage::Refused { .. }, _, Some(_)) => {
            Some(Action::Abandon(key()))
        }
        (Stage::Ready(_), Some(ReplicaGoal::Running(rendezvous)), _) => {
            Some(Action::Start(key(), rendezvous.clone()))
        }
        (Stage::Started, Some(ReplicaGoal::Running(rendezvous)), _) if replica.any_waiting() => {
            Some(Action::Start(key(), rendezvous.clone()))
        }
        (Stage::Starting, _, Some(_)) => Some(Action::Cancel(key())),
        (Stage::Started, _, Some(grace)) if replica.any_live() => Some(Action::Stop(key(), grace)),
        (Stage::Started | Stage::Stopping { .. }, _, _) if !replica.any_live() => Some(Action::Finish(key())),
        (Stage::Stopping { until }, _, Some(grace)) if now.after(grace) < *until => {
            Some(Action::Stop(key(), grace))
        }
        (Stage::Stopping { until }, _, _) if until.after(STOP_PATIENCE) <= now => {
            Some(Action::Stop(key(), Duration::ZERO))
        }
        (Stage::Finishing | Stage::Ended, None, _) => Some(Action::Remove(key())),
        (
            Stage::Queued
            | Stage::Preparing
            | Stage::Ready(_)
            | Stage::Refused { .. }
            | Stage::Starting
            | Stage::Cancelling
            | Stage::Started
            | Stage::Stopping { .. }
            | Stage::Finishing
            | Stage::Ended
            | Stage::Removing,
            _,
            _,
        ) => None,
    }
}

/// Which devices are taken, and which generation of each job has something here.
struct Holders<'a> {
    devices: BTreeSet<&'a DeviceId>,
    generations: BTreeMap<&'a JobId, Generation>,
}

impl<'a> Holders<'a> {
    fn of(known: &Known<'a>) -> Self {
        let mut holders = Self { devices: BTreeSet::new(), generations: BTreeMap::new() };
        for (key, replica) in known.iter().filter(|(_, r)| r.holds_devices()) {
            holders.devices.extend(replica.devices());
            holders.generations.insert(&key.job, key.generation);
        }
        holders
    }

    /// Takes the replica's devices if all are free.
    fn take(&mut self, key: &'a ReplicaKey, replica: &'a Replica) -> bool {
        let other_generation = self.generations.get(&key.job).is_some_and(|g| *g != key.generation);
        if other_generation || replica.devices().iter().any(|d| self.devices.contains(d)) {
            return false;
        }
        self.devices.extend(replica.devices());
        self.generations.insert(&key.job, key.generation);
        true
    }
}

#[cfg(test)]
mod tests;

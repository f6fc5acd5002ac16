//! The invariants, checked after every event against the core's views and the agents' truth.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use convoke_core::*;
use convoke_model::*;

use super::world::{Violation, World};

type Check = Result<(), Violation>;

/// What is remembered from event to event.
#[derive(Default)]
pub(crate) struct Checks {
    /// The coordinator's last start.
    pub(crate) started: Timestamp,
    /// Last hello of each node; later signs of life are the agents' `acknowledged`.
    pub(crate) heard: BTreeMap<NodeId, Timestamp>,
    /// Kinds of events for people and reasons of refusals that there were.
    pub(crate) kinds: BTreeSet<String>,
    /// Replicas that a node has reported ready.
    ready: BTreeSet<ReplicaKey>,
    /// Jobs of which a node reported every task to have ended with 0, by replica.
    run_out: BTreeSet<ReplicaKey>,
}

/// The state before an event, as far as it is compared with the one after it.
pub(crate) struct Before {
    revision: Revision,
    desired: BTreeMap<NodeId, Vec<DesiredReplica>>,
    jobs: BTreeMap<JobId, (JobState, Generation)>,
    lost: BTreeSet<NodeId>,
}

macro_rules! ensure {
    ($holds:expr, $($message:tt)*) => {
        if !$holds {
            return Err(format!($($message)*));
        }
    };
}

fn desired(world: &World) -> BTreeMap<NodeId, Vec<DesiredReplica>> {
    let of = |node: &NodeId| world.core.desired(node).map(|desired| (node.clone(), desired.replicas));
    world.agents.keys().filter_map(of).collect()
}

fn lost(world: &World) -> BTreeSet<NodeId> {
    let nodes = world.core.state().nodes.values();
    nodes.filter(|node| node.lost.is_some()).map(|node| node.info.id.clone()).collect()
}

impl Checks {
    pub(crate) fn before(&self, world: &World) -> Before {
        let jobs = world.core.state().jobs.values();
        let jobs = jobs.map(|j| (j.id.clone(), (j.run.phase.state(), j.run.generation))).collect();
        let revision = world.core.state().revision;
        Before { revision, desired: desired(world), jobs, lost: lost(world) }
    }

    pub(crate) fn after(
        &mut self,
        world: &World,
        before: &Before,
        event: &Event,
        decision: &Result<Decision, Denied>,
        effects: &[Effect],
    ) -> Check {
        self.remember(event);
        let after = desired(world);
        ensure!(!matches!(decision, Ok(Decision::Changes(c)) if c.changes.is_empty()), "changes without any");
        devices_are_exclusive(world, &after)?;
        desired_changes_are_announced(world, before, &after, effects)?;
        goals_only_advance(before, &after)?;
        for job in world.core.state().jobs.values() {
            one_generation_is_wanted(job, &after)?;
            generations_grow_and_ends_are_final(job, before, event)?;
            ranks_are_contiguous(job)?;
            checkpoints_are_sound(world, job)?;
            self.release_needs_every_replica(job)?;
            services_have_a_name_each(world, job)?;
            self.success_needs_every_task(job, before)?;
            fenced_generations_exclude_each_other(world, job)?;
            ensure!(
                job.run.phase.state() != JobState::Queued || !job.run.phase.reason().is_empty(),
                "{} is queued without a reason",
                job.id
            );
        }
        self.losses_were_silent(world, before)?;
        self.count(decision);
        stale_work_is_refused(before, event, decision)
    }

    fn count(&mut self, decision: &Result<Decision, Denied>) {
        match decision {
            Ok(Decision::Changes(changes)) => {
                self.kinds.extend(changes.events.iter().map(|e| e.kind.clone()))
            }
            Err(denied) => self.kinds.extend([denied.reason().to_owned()]),
            Ok(Decision::AlreadySo(_)) => {}
        }
    }

    fn remember(&mut self, event: &Event) {
        let Event::NodeObserved { observed, .. } = event else { return };
        for replica in &observed.replicas {
            if matches!(replica.phase, ReplicaPhase::Ready { .. }) {
                self.ready.insert(replica.key.clone());
            }
            let well = |task: &ObservedTask| matches!(&task.phase, TaskPhase::Exited(exit) if exit.status.is_success());
            if replica.phase == ReplicaPhase::Ended && replica.tasks.iter().all(well) {
                self.run_out.insert(replica.key.clone());
            }
        }
    }

    fn release_needs_every_replica(&self, job: &Job) -> Check {
        let release = match &job.run.phase {
            Phase::Starting(Starting { stage: Stage::Released(release), .. }) => release,
            Phase::Running(running) => &running.release,
            _ => return Ok(()),
        };
        let gang = job.run.gang.as_ref().expect("a released job has a gang");
        for replica in &gang.placement.replicas {
            let (job, generation, node_rank) = (job.id.clone(), job.run.generation, replica.node_rank);
            let key = ReplicaKey { job, generation, node_rank };
            ensure!(self.ready.contains(&key), "{key:?} was released before it was ready");
        }
        let world_size = gang.placement.world_size();
        ensure!(release.rendezvous.world_size == world_size, "{}: rendezvous of another world", job.id);
        let ranks = release.rendezvous.peers.iter().map(|peer| peer.rank);
        ensure!(ranks.is_sorted(), "{}: peers out of order", job.id);
        Ok(())
    }

    fn success_needs_every_task(&self, job: &Job, before: &Before) -> Check {
        let was = before.jobs.get(&job.id).map(|(state, _)| *state);
        ensure!(
            job.run.phase != Phase::Succeeded || !job.spec.restart.after_success,
            "{} is not meant to end",
            job.id
        );
        if job.run.phase != Phase::Succeeded || was == Some(JobState::Succeeded) {
            return Ok(());
        }
        for replica in job.run.gang.iter().flat_map(|gang| &gang.placement.replicas) {
            let (job, generation, node_rank) = (job.id.clone(), job.run.generation, replica.node_rank);
            let key = ReplicaKey { job, generation, node_rank };
            ensure!(self.run_out.contains(&key), "succeeded, but {key:?} did not");
        }
        Ok(())
    }

    /// A node is given up only when it was silent for a lease, and not within the window after a start.
    fn losses_were_silent(&self, world: &World, before: &Before) -> Check {
        for node in lost(world).difference(&before.lost) {
            let heard = self.heard.get(node).copied().unwrap_or_default();
            let heard = heard.max(world.agents[node].acknowledged);
            let lease = Duration::from_secs(15);
            ensure!(world.now.since(heard) >= lease, "{node} was given up although it was heard");
            ensure!(world.now.since(self.started) >= lease, "{node} was judged within the window");
        }
        Ok(())
    }
}

/// No device is promised twice, nor while a process may still use it.
fn devices_are_exclusive(world: &World, desired: &BTreeMap<NodeId, Vec<DesiredReplica>>) -> Check {
    for (node, wanted) in desired {
        let mut users: BTreeMap<&DeviceId, ReplicaKey> = BTreeMap::new();
        let wishes = wanted.iter().map(|wish| (wish.key(), &wish.placement.devices));
        let held = world.agents[node].replicas.values().filter(|held| held.is_live());
        for (key, devices) in wishes.chain(held.map(|held| (held.wish.key(), &held.wish.placement.devices))) {
            for device in devices {
                let other = users.insert(device, key.clone()).filter(|other| *other != key);
                ensure!(other.is_none(), "{device} is used by {key:?} and by {other:?}");
            }
        }
    }
    for node in world.core.nodes(world.now) {
        let mut seen = BTreeSet::new();
        let twice = node.in_use.iter().find(|u| !seen.insert(&u.device));
        ensure!(twice.is_none(), "held twice: {twice:?}");
    }
    Ok(())
}

fn desired_changes_are_announced(
    world: &World,
    before: &Before,
    after: &BTreeMap<NodeId, Vec<DesiredReplica>>,
    effects: &[Effect],
) -> Check {
    let revision = world.core.state().revision;
    ensure!(revision >= before.revision, "the revision went back");
    for (node, wanted) in after {
        if before.desired.get(node).is_some_and(|old| old != wanted) {
            ensure!(revision > before.revision, "{node}: desired state changed under one revision");
            let told = effects.contains(&Effect::DesiredChanged(node.clone()));
            ensure!(told, "{node}: desired state changed and nobody was told");
        }
    }
    Ok(())
}

fn goals_only_advance(before: &Before, after: &BTreeMap<NodeId, Vec<DesiredReplica>>) -> Check {
    let order = |goal: &ReplicaGoal| match goal {
        ReplicaGoal::Prepared => 0,
        ReplicaGoal::Running(_) => 1,
        ReplicaGoal::Stopped { .. } => 2,
    };
    for (node, wanted) in after {
        for wish in wanted {
            let old = before.desired.get(node).into_iter().flatten().find(|old| old.key() == wish.key());
            let Some(old) = old else { continue };
            ensure!(order(&old.goal) <= order(&wish.goal), "{node}: a goal went back: {:?}", wish.key());
            if let (ReplicaGoal::Running(old), ReplicaGoal::Running(new)) = (&old.goal, &wish.goal) {
                ensure!(old == new, "{node}: the rendezvous of {:?} changed", wish.key());
            }
        }
    }
    Ok(())
}

fn one_generation_is_wanted(job: &Job, desired: &BTreeMap<NodeId, Vec<DesiredReplica>>) -> Check {
    let wishes: Vec<&DesiredReplica> = desired.values().flatten().filter(|wish| wish.job == job.id).collect();
    for wish in &wishes {
        ensure!(wish.generation == job.run.generation, "{}: {} is wanted still", job.id, wish.generation);
        ensure!(job.run.phase.has_gang(), "{} is wanted without a gang", job.id);
    }
    let gang = job.run.gang.as_ref().filter(|_| job.run.phase.has_gang());
    let replicas = gang.map_or(0, |gang| gang.placement.replicas.len());
    ensure!(wishes.len() == replicas, "{}: {} of {replicas} replicas are wanted", job.id, wishes.len());
    Ok(())
}

fn generations_grow_and_ends_are_final(job: &Job, before: &Before, event: &Event) -> Check {
    let Some((state, generation)) = before.jobs.get(&job.id) else { return Ok(()) };
    let outlived = job.run.generation > *generation || !job.run.phase.has_gang();
    ensure!(!outlived || job.unique_ids.is_empty(), "{}: unique ids outlived their generation", job.id);
    ensure!(job.run.generation >= *generation, "{}: the generation went back", job.id);
    ensure!(job.run.generation.0 <= generation.0 + 1, "{}: a generation was skipped", job.id);
    let restarted = matches!(event, Event::Restart { job: id } if *id == job.id);
    let now = job.run.phase.state();
    ensure!(!state.is_final() || restarted || now == *state, "{}: {state:?} became {now:?}", job.id);
    ensure!(
        now.is_final() == job.run.finished.is_some(),
        "{}: {now:?}, finished {:?}",
        job.id,
        job.run.finished
    );
    Ok(())
}

fn ranks_are_contiguous(job: &Job) -> Check {
    let Some(gang) = &job.run.gang else { return Ok(()) };
    let mut next = 0;
    let mut nodes = BTreeSet::new();
    for (i, replica) in gang.placement.replicas.iter().enumerate() {
        ensure!(replica.node_rank.0 as usize == i, "{}: node ranks are not in order", job.id);
        ensure!(replica.first_rank.0 == next, "{}: ranks are not contiguous", job.id);
        ensure!(nodes.insert(&replica.node), "{}: two replicas on {}", job.id, replica.node);
        next += replica.local_world;
    }
    ensure!(nodes.len() == job.spec.replicas as usize, "{}: part of a gang was placed", job.id);
    Ok(())
}

fn checkpoints_are_sound(world: &World, job: &Job) -> Check {
    let gang = job.run.gang.as_ref().filter(|_| job.run.phase.has_gang());
    if let Some(from) = gang.and_then(|gang| gang.resume_from.as_ref()) {
        let state = world.core.checkpoint(from).map(|checkpoint| checkpoint.state);
        ensure!(state == Some(CheckpointState::Complete), "{} starts from {from:?}: {state:?}", job.id);
    }
    let mut complete = 0;
    for checkpoint in &job.checkpoints {
        let stored: Vec<Rank> = checkpoint.shards.iter().map(|shard| shard.rank).collect();
        let all = stored == checkpoint.expected;
        ensure!(all == (checkpoint.state == CheckpointState::Complete), "{checkpoint:?} lies");
        complete += u32::from(all);
    }
    // One more may be in use by the current generation, and one by a replacement.
    ensure!(complete <= job.spec.checkpoint.keep + 2, "{}: {complete} checkpoints are kept", job.id);
    Ok(())
}

/// A name means one address, and never another service than the job itself where it is the job's own; whose files
/// it starts with is known for as long as it may start.
fn services_have_a_name_each(world: &World, job: &Job) -> Check {
    let release = match &job.run.phase {
        Phase::Starting(Starting { stage: Stage::Released(release), .. }) => Some(release),
        Phase::Running(running) => Some(&running.release),
        _ => None,
    };
    let mut taken: BTreeSet<&str> = job.spec.host_names().collect();
    for service in release.iter().flat_map(|release| &release.rendezvous.services) {
        ensure!(taken.insert(&service.name), "{}: {} is named twice", job.id, service.name);
    }
    let known = |left: &FilesOf| world.core.state().jobs.contains_key(&left.job);
    ensure!(
        job.run.phase.is_final() || job.run.files_of.iter().all(known),
        "{} lost its predecessors",
        job.id
    );
    let waits = job.run.generation > Generation(0) && !job.spec.container.depends_on.is_empty();
    ensure!(!waits || job.run.files_of.len() == 1, "{} has no predecessor", job.id);
    Ok(())
}

/// Of a fenced job no two generations have processes at the same time, whatever was cut off.
fn fenced_generations_exclude_each_other(world: &World, job: &Job) -> Check {
    if job.spec.fence.is_none() {
        return Ok(());
    }
    let held = world.agents.values().flat_map(|agent| &agent.replicas);
    let live = held.filter(|(key, held)| key.job == job.id && held.is_live());
    let running = live.filter(|(_, held)| held.phase == ReplicaPhase::Started);
    let generations: BTreeSet<Generation> = running.map(|(key, _)| key.generation).collect();
    ensure!(generations.len() <= 1, "{}: generations {generations:?} run at once", job.id);
    Ok(())
}

fn stale_work_is_refused(before: &Before, event: &Event, decision: &Result<Decision, Denied>) -> Check {
    let (job, generation) = match event {
        Event::PublishUniqueId { job, generation, .. } => (job, generation),
        Event::ShardStored { reference, .. } => (&reference.job, &reference.generation),
        _ => return Ok(()),
    };
    let current = before.jobs.get(job).map(|(_, generation)| generation);
    let stale = current.is_none_or(|current| generation < current);
    let accepted = matches!(decision, Ok(Decision::Changes(_)));
    ensure!(!stale || !accepted, "{event:?} was accepted");
    Ok(())
}

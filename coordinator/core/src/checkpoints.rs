//! The checkpoint catalogue and the retention of ended jobs.
//!
//! A checkpoint is complete when every expected task has stored its shard, and only then may a
//! generation start from it. The newest `keep` complete ones stay, and any that a generation has
//! started from or a replacement will start from.

use std::collections::BTreeSet;

use convoke_model::{Checkpoint, CheckpointRef, CheckpointState, EventLevel, JobId, Rank, Shard, Shards};

use crate::draft::Draft;
use crate::rendezvous::task_ranks;
use crate::settle::is_current;
use crate::{Change, Denied, Job, MAX_ENDED_JOBS, MAX_PARTIAL_CHECKPOINTS, Phase, State};

impl State {
    /// Where a next generation of the job would start from.
    pub(crate) fn resume_point<'a>(&'a self, job: &'a Job) -> Option<&'a CheckpointRef> {
        let inherited = job.run.inherited.as_ref().filter(|reference| {
            self.checkpoint(reference).is_some_and(|c| c.state == CheckpointState::Complete)
        });
        job.latest_checkpoint().map(|c| &c.reference).or(inherited)
    }

    pub(crate) fn checkpoint(&self, reference: &CheckpointRef) -> Option<&Checkpoint> {
        self.jobs.get(&reference.job)?.checkpoints.iter().find(|c| c.reference == *reference)
    }

    /// Checkpoints that a job which has not ended started from, or will.
    fn pinned(&self) -> BTreeSet<&CheckpointRef> {
        let mut pinned = BTreeSet::new();
        for job in self.jobs.values().filter(|job| !job.run.phase.is_final()) {
            pinned.extend(self.resume_point(job));
            let gang = job.run.gang.as_ref().filter(|_| job.run.phase.has_gang());
            pinned.extend(gang.and_then(|gang| gang.resume_from.as_ref()));
        }
        pinned
    }
}

/// Ranks that each store a shard: every task's first, or rank 0 alone.
fn expected_ranks(job: &Job) -> Vec<Rank> {
    match job.spec.checkpoint.shards {
        Shards::RankZero => vec![Rank(0)],
        Shards::All => {
            let replicas = job.run.gang.iter().flat_map(|gang| &gang.placement.replicas);
            replicas.flat_map(|r| task_ranks(r, r.task_count(&job.spec))).collect()
        }
    }
}

/// Whether the job takes this shard.
pub(crate) fn check_shard(job: &Job, reference: &CheckpointRef, rank: Rank) -> Result<(), Denied> {
    if !is_current(job, reference.generation) {
        let (job, generation) = (job.id.clone(), reference.generation);
        return Err(Denied::StaleGeneration { job, generation });
    }
    if !expected_ranks(job).contains(&rank) {
        return Err(Denied::UnexpectedShard { reference: reference.clone(), rank });
    }
    Ok(())
}

impl Draft<'_> {
    pub(crate) fn shard_stored(&mut self, reference: CheckpointRef, shard: Shard) -> Result<(), Denied> {
        let job = self.find(&reference.job)?;
        let known =
            self.state.checkpoint(&reference).and_then(|c| c.shards.iter().find(|s| s.rank == shard.rank));
        match known {
            Some(known) if *known == shard => return Ok(()),
            Some(_) => return Err(Denied::ShardConflict { rank: shard.rank, reference }),
            None => check_shard(job, &reference, shard.rank)?,
        }
        let mut checkpoint = self.state.checkpoint(&reference).cloned().unwrap_or_else(|| Checkpoint {
            reference,
            state: CheckpointState::Partial,
            expected: expected_ranks(job),
            shards: Vec::new(),
            created: self.now,
        });
        checkpoint.shards.push(shard);
        checkpoint.shards.sort_by_key(|s| s.rank);
        let id = checkpoint.reference.job.clone();
        let is_complete =
            checkpoint.expected.iter().all(|rank| checkpoint.shards.iter().any(|s| s.rank == *rank));
        if is_complete {
            checkpoint.state = CheckpointState::Complete;
            let message = format!(
                "checkpoint step {} is complete: {} bytes from {} {}",
                checkpoint.reference.step,
                checkpoint.bytes(),
                checkpoint.shards.len(),
                crate::place::plural(checkpoint.shards.len(), "rank")
            );
            self.tell_job(EventLevel::Info, "CheckpointComplete", &id, message);
        }
        self.make(Change::Checkpoint { checkpoint });
        self.prune_checkpoints(&id);
        Ok(())
    }

    /// Drops the job's checkpoints that nobody will start from.
    pub(crate) fn prune_checkpoints(&mut self, id: &JobId) {
        let job = self.job(id);
        let place = |c: &Checkpoint| (c.reference.generation, c.reference.step);
        let mut newest_first: Vec<&Checkpoint> = job.checkpoints.iter().collect();
        newest_first.sort_by_key(|c| std::cmp::Reverse(place(c)));
        let newest = job.latest_checkpoint().map(place);
        let pinned = self.state.pinned();
        let (mut complete, mut partial) = (0, 0);
        let mut dropped = Vec::new();
        for checkpoint in newest_first {
            let stays = match checkpoint.state {
                CheckpointState::Complete => {
                    complete += 1;
                    complete <= job.spec.checkpoint.keep || pinned.contains(&checkpoint.reference)
                }
                CheckpointState::Partial => {
                    partial += 1;
                    // Ranks store in order of steps, so one before a complete one stays partial.
                    is_current(job, checkpoint.reference.generation)
                        && Some(place(checkpoint)) > newest
                        && partial <= MAX_PARTIAL_CHECKPOINTS
                }
            };
            if !stays {
                dropped.push(checkpoint.reference.clone());
            }
        }
        for reference in dropped {
            self.make(Change::CheckpointDeleted { reference });
        }
    }

    /// Forgets the jobs that ended the longest ago, beyond the bound.
    pub(crate) fn forget_ended(&mut self) {
        let mut ended: Vec<&Job> =
            self.state.jobs.values().map(|job| &**job).filter(|job| job.run.phase.is_final()).collect();
        let Some(excess) = ended.len().checked_sub(MAX_ENDED_JOBS).filter(|n| *n > 0) else { return };
        let awaited = |job: &Job| match &job.run.phase {
            Phase::Queued(queued) => queued.after.clone(),
            _ => Vec::new(),
        };
        let unended = self.state.jobs.values().filter(|job| !job.run.phase.is_final());
        let needed: BTreeSet<JobId> = (self.state.pinned().into_iter().map(|c| c.job.clone()))
            .chain(self.state.jobs.values().flat_map(|job| awaited(job)))
            .chain(unended.flat_map(|job| job.run.files_of.iter().map(|left| left.job.clone())))
            .collect();
        ended.retain(|job| !needed.contains(&job.id));
        ended.sort_by_key(|job| (job.run.finished, job.order));
        let forgotten: Vec<JobId> = ended.iter().take(excess).map(|job| job.id.clone()).collect();
        for job in forgotten {
            self.make(Change::JobForgotten { job });
        }
    }
}

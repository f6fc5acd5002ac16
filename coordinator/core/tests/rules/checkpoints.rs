//! The catalogue of checkpoints and the broker of unique ids.

use convoke_core::*;
use convoke_model::*;

use crate::harness::Harness;
use crate::support::{shard, spec};

fn running(edit: impl FnOnce(&mut JobSpec)) -> (Harness, JobId) {
    let mut h = Harness::with_nodes(&[("a", 2), ("b", 2)]);
    let mut spec = spec("train", 2, 2);
    edit(&mut spec);
    let job = h.submit(spec);
    h.follow_all();
    assert_eq!(h.state(&job), JobState::Running);
    (h, job)
}

fn publish(h: &mut Harness, job: &JobId, generation: u64, bytes: Vec<u8>) -> Result<Decision, Denied> {
    let group = GroupName::new("world").unwrap();
    h.decide(Event::PublishUniqueId {
        job: job.clone(),
        generation: Generation(generation),
        group,
        id: bytes,
    })
}

fn steps(h: &Harness, job: &JobId) -> Vec<u64> {
    h.core.checkpoints(job).iter().map(|c| c.reference.step.0).collect()
}

#[test]
fn with_shards_of_all_a_checkpoint_is_complete_when_every_rank_has_stored() {
    let (mut h, job) = running(|spec| spec.checkpoint.shards = Shards::All);
    for rank in 0..3 {
        h.store(&job, 10, shard(rank, 1)).unwrap();
        assert_eq!(h.job(&job).latest_checkpoint, None);
    }
    h.store(&job, 10, shard(3, 1)).unwrap();
    assert_eq!(h.job(&job).latest_checkpoint.map(|c| c.step), Some(Step(10)));
    assert_eq!(h.messages("CheckpointComplete").len(), 1);
}

#[test]
fn a_partial_checkpoint_is_never_started_from() {
    let (mut h, job) = running(|spec| spec.checkpoint.shards = Shards::All);
    for rank in 0..4 {
        h.store(&job, 10, shard(rank, 1)).unwrap();
    }
    h.store(&job, 20, shard(0, 1)).unwrap();
    h.end_task(&job, 1, ExitStatus::Signal(9));
    h.follow_all();
    assert_eq!(h.job(&job).resumed_from.map(|c| c.step), Some(Step(10)));
    assert_eq!(steps(&h, &job), [10], "the half-written one can never be completed");
}

#[test]
fn the_same_shard_again_is_already_so_and_other_files_are_denied() {
    let (mut h, job) = running(|_| {});
    h.store(&job, 10, shard(0, 1)).unwrap();
    assert_eq!(h.store(&job, 10, shard(0, 1)), Ok(Decision::AlreadySo(AlreadySo::Nothing)));
    assert_eq!(h.store(&job, 10, shard(0, 2)).unwrap_err().reason(), "SHARD_CONFLICT");
}

#[test]
fn a_rank_that_stores_no_shard_is_denied_before_its_bytes_are_received() {
    let (mut h, job) = running(|_| {});
    let reference = CheckpointRef { job: job.clone(), generation: Generation(1), step: Step(10) };
    assert_eq!(h.core.expects_shard(&reference, Rank(0)), Ok(()));
    assert_eq!(h.core.expects_shard(&reference, Rank(1)).unwrap_err().reason(), "UNEXPECTED_SHARD");
    assert_eq!(h.store(&job, 10, shard(1, 1)).unwrap_err().reason(), "UNEXPECTED_SHARD");
}

#[test]
fn the_newest_complete_ones_are_kept_and_the_rest_deleted() {
    let (mut h, job) = running(|spec| spec.checkpoint.keep = 2);
    for step in [10, 20, 30] {
        h.store(&job, step, shard(0, 1)).unwrap();
    }
    assert_eq!(steps(&h, &job), [30, 20]);
    let deleted = CheckpointRef { job, generation: Generation(1), step: Step(10) };
    assert!(h.effects.contains(&Effect::DeleteCheckpoint(deleted)));
}

#[test]
fn the_checkpoint_that_the_generation_started_from_is_not_deleted() {
    let (mut h, job) = running(|spec| spec.checkpoint.keep = 1);
    h.store(&job, 10, shard(0, 1)).unwrap();
    h.end_task(&job, 1, ExitStatus::Signal(9));
    h.follow_all();
    h.store(&job, 20, shard(0, 1)).unwrap();
    h.store(&job, 30, shard(0, 1)).unwrap();
    assert_eq!(steps(&h, &job), [30, 10]);
    h.end_all(&job, ExitStatus::Code(0));
    assert_eq!(steps(&h, &job), [30], "once it is over");
}

#[test]
fn shards_are_taken_while_the_gang_drains_and_not_once_it_is_over() {
    let (mut h, job) = running(|_| {});
    h.ok(Event::Stop { job: job.clone(), grace: None });
    h.store(&job, 10, shard(0, 1)).unwrap();
    h.follow_all();
    assert_eq!(h.state(&job), JobState::Stopped);
    assert_eq!(h.store(&job, 20, shard(0, 1)).unwrap_err().reason(), "STALE_GENERATION");
}

#[test]
fn work_of_an_older_generation_is_refused() {
    let (mut h, job) = running(|_| {});
    h.end_task(&job, 0, ExitStatus::Signal(9));
    h.follow_all();
    assert!(!h.core.is_current(&job, Generation(1)));
    assert!(h.core.is_current(&job, Generation(2)));
    let reference = CheckpointRef { job: job.clone(), generation: Generation(1), step: Step(10) };
    let stored = Event::ShardStored { reference, shard: shard(0, 1) };
    assert_eq!(h.denied(stored).reason(), "STALE_GENERATION");
    assert_eq!(publish(&mut h, &job, 1, vec![0; 128]).unwrap_err().reason(), "STALE_GENERATION");
}

#[test]
fn a_unique_id_is_written_once_and_goes_with_its_generation() {
    let (mut h, job) = running(|_| {});
    let group = GroupName::new("world").unwrap();
    assert_eq!(h.core.unique_id(&job, Generation(1), &group), Ok(None));
    publish(&mut h, &job, 1, vec![7; 128]).unwrap();
    let told = Effect::UniqueIdSet { job: job.clone(), generation: Generation(1), group: group.clone() };
    assert!(h.effects.contains(&told));
    assert_eq!(h.core.unique_id(&job, Generation(1), &group), Ok(Some(&UniqueId([7; 128]))));
    assert_eq!(publish(&mut h, &job, 1, vec![7; 128]), Ok(Decision::AlreadySo(AlreadySo::Nothing)));
    assert_eq!(publish(&mut h, &job, 1, vec![8; 128]).unwrap_err().reason(), "UNIQUE_ID_SET");
    h.end_task(&job, 0, ExitStatus::Signal(9));
    h.follow_all();
    assert_eq!(h.core.unique_id(&job, Generation(1), &group).unwrap_err().reason(), "STALE_GENERATION");
    assert_eq!(h.core.unique_id(&job, Generation(2), &group), Ok(None));
}

#[test]
fn a_unique_id_is_128_bytes() {
    let (mut h, job) = running(|_| {});
    assert_eq!(publish(&mut h, &job, 1, vec![0; 127]), Err(Denied::BadUniqueId(127)));
}

#[test]
fn the_groups_of_a_generation_are_bounded() {
    let (mut h, job) = running(|_| {});
    let event = |i: usize| Event::PublishUniqueId {
        job: job.clone(),
        generation: Generation(1),
        group: GroupName::new(&format!("g{i}")).unwrap(),
        id: vec![0; 128],
    };
    for i in 0..MAX_UNIQUE_ID_GROUPS {
        h.ok(event(i));
    }
    assert_eq!(h.denied(event(MAX_UNIQUE_ID_GROUPS)).reason(), "TOO_MANY_GROUPS");
}

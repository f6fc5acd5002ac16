use convoke_model::*;
use proptest::prelude::*;

use super::*;
use crate::replica::Held;
use crate::runtime::TaskStatus;
use crate::testing::{desired_replica, rendezvous};

const NOW: Timestamp = Timestamp(1_000_000);

fn exit(code: i32) -> TaskExit {
    TaskExit::new(ExitStatus::Code(code), NOW)
}

fn running() -> Option<TaskStatus> {
    Some(TaskStatus::running(7))
}

fn ended() -> Option<TaskStatus> {
    Some(TaskStatus::Ended(exit(0)))
}

fn held() -> Held {
    Held {
        address: [127, 0, 0, 1].into(),
        master_port: 1,
        task_ports: vec![2, 3],
        probe_port: None,
        image: None,
    }
}

fn goal_running(replica: &DesiredReplica) -> ReplicaGoal {
    ReplicaGoal::Running(rendezvous(replica))
}

fn state(replicas: Vec<DesiredReplica>) -> DesiredState {
    DesiredState { cluster: ClusterId::new("c").unwrap(), epoch: Epoch(1), revision: Revision(1), replicas }
}

/// A replica of two tasks in the given stage.
fn replica(stage: Stage, first: Option<TaskStatus>, second: Option<TaskStatus>) -> Replica {
    let desired = desired_replica("j", 1, 0, &["cpu-0", "cpu-1"]);
    let mut replica = Replica::queued(desired);
    replica.stage = stage;
    replica.tasks = [(Rank(0), first), (Rank(1), second)].into();
    replica
}

/// The one action for one replica that is wanted with `goal`, or not at all.
fn action(replica: &Replica, goal: Option<ReplicaGoal>) -> Option<Action> {
    let key = replica.desired.key();
    let wanted = goal.map(|goal| DesiredReplica { goal, ..replica.desired.clone() });
    let actions = plan(&state(wanted.into_iter().collect()), &[(&key, replica)].into(), NOW);
    assert!(actions.len() <= 1);
    actions.into_iter().next()
}

#[test]
fn a_wanted_replica_is_prepared_and_started_when_released() {
    let queued = replica(Stage::Queued, None, None);
    let key = queued.desired.key();
    assert_eq!(action(&queued, Some(ReplicaGoal::Prepared)), Some(Action::Prepare(key.clone())));
    let ready = replica(Stage::Ready(held()), None, None);
    assert_eq!(action(&ready, Some(ReplicaGoal::Prepared)), None);
    let goal = goal_running(&ready.desired);
    assert_eq!(action(&ready, Some(goal)), Some(Action::Start(key, rendezvous(&ready.desired))));
}

#[test]
fn tasks_that_an_interrupted_start_left_out_are_started() {
    let half = replica(Stage::Started, running(), None);
    let goal = goal_running(&half.desired);
    assert!(matches!(action(&half, Some(goal)), Some(Action::Start(..))));
}

#[test]
fn running_tasks_are_left_alone_while_they_are_wanted() {
    let started = replica(Stage::Started, running(), ended());
    assert_eq!(action(&started, Some(goal_running(&started.desired))), None);
    assert_eq!(action(&started, Some(ReplicaGoal::Prepared)), None);
}

#[test]
fn absence_stops_with_the_failure_grace_and_then_removes() {
    let started = replica(Stage::Started, running(), running());
    let key = started.desired.key();
    assert_eq!(action(&started, None), Some(Action::Stop(key.clone(), started.desired.spec.failure_grace)));
    let finished = replica(Stage::Started, ended(), ended());
    assert_eq!(action(&finished, None), Some(Action::Finish(key.clone())));
    assert_eq!(action(&replica(Stage::Ended, ended(), ended()), None), Some(Action::Remove(key)));
}

#[test]
fn a_shorter_grace_hurries_a_stop_and_a_longer_one_does_not() {
    let until = NOW.after(Duration::from_secs(10));
    let stopping = replica(Stage::Stopping { until }, running(), running());
    let stop = |grace_ms| action(&stopping, Some(ReplicaGoal::Stopped { grace_ms }));
    assert!(matches!(stop(2_000), Some(Action::Stop(_, grace)) if grace == Duration::from_secs(2)));
    assert_eq!(stop(10_000), None);
    assert_eq!(stop(60_000), None);
}

#[test]
fn a_stop_that_had_no_effect_is_repeated_without_grace() {
    let overdue = replica(Stage::Stopping { until: Timestamp(NOW.0 - 5_000) }, running(), ended());
    let stop = action(&overdue, Some(ReplicaGoal::Stopped { grace_ms: 9_000 }));
    assert_eq!(stop, Some(Action::Stop(overdue.desired.key(), Duration::ZERO)));
}

#[test]
fn a_start_is_given_up_at_once_and_holds_its_devices_until_nothing_of_it_is_left() {
    let starting = replica(Stage::Starting, Some(TaskStatus::Starting), None);
    let key = starting.desired.key();
    assert_eq!(action(&starting, Some(goal_running(&starting.desired))), None);
    let stop = Some(ReplicaGoal::Stopped { grace_ms: 60_000 });
    for goal in [None, stop.clone()] {
        assert_eq!(action(&starting, goal), Some(Action::Cancel(key.clone())));
    }
    let cancelling = replica(Stage::Cancelling, Some(TaskStatus::Starting), None);
    assert_eq!(action(&cancelling, stop.clone()), None);
    let begun = replica(Stage::Started, Some(TaskStatus::Starting), None);
    assert!(matches!(action(&begun, stop.clone()), Some(Action::Stop(..))));
    let over = replica(Stage::Started, None, None);
    assert_eq!(action(&over, stop), Some(Action::Finish(key)));
    let next = Replica::queued(desired_replica("k", 1, 0, &["cpu-1"]));
    for holder in [starting, cancelling, begun] {
        let (holder_key, next_key) = (holder.desired.key(), next.desired.key());
        let known = [(&holder_key, &holder), (&next_key, &next)].into();
        let actions = plan(&state(vec![next.desired.clone()]), &known, NOW);
        assert!(!actions.contains(&Action::Prepare(next_key)), "{actions:?}");
    }
}

#[test]
fn a_replica_ends_only_when_no_process_is_left() {
    let exited = replica(Stage::Started, Some(TaskStatus::Exited(exit(1))), ended());
    assert_eq!(action(&exited, Some(goal_running(&exited.desired))), None);
    let all = replica(Stage::Started, ended(), ended());
    assert!(matches!(action(&all, Some(goal_running(&all.desired))), Some(Action::Finish(_))));
}

#[test]
fn a_device_that_another_replica_holds_is_waited_for() {
    let old = replica(Stage::Started, running(), running());
    let new = Replica::queued(desired_replica("k", 1, 0, &["cpu-1"]));
    let (old_key, new_key) = (old.desired.key(), new.desired.key());
    let wanted = state(vec![new.desired.clone()]);
    let actions = plan(&wanted, &[(&old_key, &old), (&new_key, &new)].into(), NOW);
    assert!(matches!(&actions[..], [Action::Stop(key, _)] if *key == old_key), "{actions:?}");
    let gone = replica(Stage::Ended, ended(), ended());
    let actions = plan(&wanted, &[(&old_key, &gone), (&new_key, &new)].into(), NOW);
    assert!(actions.contains(&Action::Prepare(new_key)), "{actions:?}");
}

#[test]
fn a_new_generation_waits_for_the_old_one_even_on_other_devices() {
    let old = replica(Stage::Stopping { until: NOW }, running(), ended());
    let new = Replica::queued(desired_replica("j", 2, 0, &["cpu-5"]));
    let (old_key, new_key) = (old.desired.key(), new.desired.key());
    let actions = plan(&state(vec![new.desired.clone()]), &[(&old_key, &old), (&new_key, &new)].into(), NOW);
    assert!(!actions.iter().any(|a| matches!(a, Action::Prepare(_))), "{actions:?}");
}

fn any_stage() -> impl Strategy<Value = Stage> {
    prop_oneof![
        Just(Stage::Queued),
        Just(Stage::Preparing),
        Just(Stage::Ready(held())),
        Just(Stage::Refused { message: "no".into(), retryable: true, explanation: None }),
        Just(Stage::Starting),
        Just(Stage::Cancelling),
        Just(Stage::Started),
        (0_u64..2_000_000).prop_map(|at| Stage::Stopping { until: Timestamp(at) }),
        Just(Stage::Finishing),
        Just(Stage::Ended),
        Just(Stage::Removing),
    ]
}

fn any_goal() -> impl Strategy<Value = Option<u8>> {
    prop::option::of(0_u8..3)
}

fn any_replica() -> impl Strategy<Value = (Replica, Option<u8>)> {
    (0_usize..3, 1_u64..4, any_stage(), any_goal(), 0_usize..4, any::<bool>()).prop_map(
        |(job, generation, stage, goal, device, live)| {
            let name = ["a", "b", "c"][job];
            let device = ["cpu-0", "cpu-1", "cpu-2", "cpu-3"][device];
            let mut replica = Replica::queued(desired_replica(name, generation, 0, &[device]));
            let status = match stage {
                Stage::Queued | Stage::Preparing | Stage::Ready(_) | Stage::Refused { .. } => None,
                Stage::Started | Stage::Stopping { .. } if live => running(),
                _ => ended(),
            };
            replica.stage = stage;
            replica.tasks.values_mut().for_each(|task| *task = status.clone());
            (replica, goal)
        },
    )
}

fn wanted(replica: &Replica, goal: u8) -> DesiredReplica {
    let goal = match goal {
        0 => ReplicaGoal::Prepared,
        1 => goal_running(&replica.desired),
        _ => ReplicaGoal::Stopped { grace_ms: 1_000 },
    };
    DesiredReplica { goal, ..replica.desired.clone() }
}

fn key_of(action: &Action) -> &ReplicaKey {
    match action {
        Action::Prepare(key)
        | Action::Start(key, _)
        | Action::Cancel(key)
        | Action::Stop(key, _)
        | Action::Abandon(key)
        | Action::Finish(key)
        | Action::Remove(key) => key,
    }
}

proptest! {
    #[test]
    fn whatever_is_known_and_wanted_the_plan_keeps_its_promises(
        replicas in prop::collection::vec(any_replica(), 0..8),
    ) {
        let by_key: BTreeMap<ReplicaKey, (Replica, Option<u8>)> =
            replicas.into_iter().map(|(r, goal)| (r.desired.key(), (r, goal))).collect();
        let desired = state(
            by_key.values().filter_map(|(r, goal)| goal.map(|goal| wanted(r, goal))).collect(),
        );
        let known: Known<'_> = by_key.iter().map(|(key, (replica, _))| (key, replica)).collect();
        let actions = plan(&desired, &known, NOW);
        prop_assert_eq!(&actions, &plan(&desired, &known, NOW));
        let mut touched = BTreeSet::new();
        for action in &actions {
            let (replica, goal) = &by_key[key_of(action)];
            prop_assert!(touched.insert(key_of(action)), "one action per replica");
            match action {
                Action::Prepare(key) => {
                    let clash = by_key.iter().any(|(other, (r, _))| {
                        other != key
                            && r.holds_devices()
                            && (r.devices() == replica.devices()
                                || (other.job == key.job && other.generation != key.generation))
                    });
                    prop_assert!(!clash, "prepared over a holder");
                    prop_assert!(matches!(goal, Some(0 | 1)));
                }
                Action::Start(..) => prop_assert_eq!(*goal, Some(1)),
                Action::Cancel(_) => {
                    prop_assert!(replica.stage == Stage::Starting && !matches!(goal, Some(0 | 1)));
                }
                Action::Stop(..) => prop_assert!(replica.any_live()),
                Action::Abandon(_) => prop_assert_eq!(*goal, Some(2)),
                Action::Finish(_) => prop_assert!(!replica.any_live()),
                Action::Remove(_) => prop_assert!(goal.is_none() && !replica.any_live()),
            }
        }
        let prepared: Vec<_> = actions.iter().filter(|a| matches!(a, Action::Prepare(_))).collect();
        for (i, a) in prepared.iter().enumerate() {
            for b in &prepared[..i] {
                prop_assert_ne!(by_key[key_of(a)].0.devices(), by_key[key_of(b)].0.devices());
            }
        }
    }
}

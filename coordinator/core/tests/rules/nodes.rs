//! Registration, sessions and leases; what a silent node means for its gangs.

use std::time::Duration;

use convoke_core::*;
use convoke_model::*;

use crate::harness::{Harness, instance};
use crate::support::{info, node_id, spec};

fn hello(name: &str, slots: u32, by: &str) -> Event {
    Event::NodeHello { info: info(name, slots), instance: instance(by), cluster: None }
}

fn node_state(h: &Harness, name: &str) -> NodeState {
    let nodes = h.core.nodes(h.now);
    nodes.iter().find(|node| node.info.id == node_id(name)).expect("registered").state
}

/// Seconds in which nobody is heard.
fn silence(h: &mut Harness, seconds: u64) {
    h.now = h.now.after(Duration::from_secs(seconds));
    h.tick();
}

/// A job over both nodes, running; then the window after the start is over.
fn running() -> (Harness, JobId) {
    let mut h = Harness::with_nodes(&[("a", 2), ("b", 2), ("c", 2)]);
    let job = h.submit(spec("train", 2, 2));
    h.follow_all();
    assert_eq!(h.state(&job), JobState::Running);
    h.pass(Duration::from_secs(20));
    (h, job)
}

/// `b` is cut off until its lease is over; the others are heard.
fn lose_b(h: &mut Harness) {
    h.disconnect("b");
    h.pass(Duration::from_secs(15));
    assert_eq!(node_state(h, "b"), NodeState::Lost);
}

#[test]
fn nothing_is_decided_before_the_start() {
    let core = Core::new(Config::default(), State::default());
    assert_eq!(core.decide(Timestamp(1), Event::Tick), Err(Denied::NotStarted));
    assert_eq!(core.next_deadline(), None);
}

#[test]
fn an_agent_of_another_cluster_is_refused() {
    let mut h = Harness::new();
    let cluster = Some(ClusterId::new("other").unwrap());
    let event = Event::NodeHello { info: info("a", 1), instance: instance("x"), cluster };
    assert_eq!(h.denied(event).reason(), "WRONG_CLUSTER");
}

#[test]
fn a_node_name_is_held_until_its_lease_runs_out() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    assert_eq!(h.denied(hello("a", 1, "thief")).reason(), "NODE_TAKEN");
    h.disconnect("a");
    assert_eq!(h.denied(hello("a", 1, "thief")).reason(), "NODE_TAKEN", "the lease still runs");
    silence(&mut h, 15);
    h.ok(hello("a", 1, "thief"));
}

#[test]
fn an_agent_with_a_living_nodes_instance_under_another_name_is_refused_until_that_is_lost() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let denied = h.denied(hello("b", 1, "a-1"));
    assert_eq!(denied.reason(), "NODE_INSTANCE_TAKEN");
    assert!(denied.to_string().contains("state directory of node a"), "{denied}");
    h.disconnect("a");
    assert_eq!(h.denied(hello("b", 1, "a-1")).reason(), "NODE_INSTANCE_TAKEN", "the lease still runs");
    silence(&mut h, 15);
    h.ok(hello("b", 1, "a-1"));
    assert_eq!(h.denied(hello("a", 1, "a-1")).reason(), "NODE_INSTANCE_TAKEN", "it is b's now");
}

#[test]
fn a_copy_of_a_connected_nodes_directory_on_another_host_is_refused() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let elsewhere = || {
        let info = NodeInfo { hostname: "elsewhere".to_owned(), ..info("a", 1) };
        Event::NodeHello { info, instance: instance("a-1"), cluster: None }
    };
    let denied = h.denied(elsewhere());
    assert_eq!(denied.reason(), "NODE_INSTANCE_TAKEN");
    assert!(denied.to_string().contains("on host a,"), "{denied}");
    h.disconnect("a");
    h.ok(elsewhere());
}

#[test]
fn the_same_agent_may_say_hello_again_and_its_inventory_is_replaced() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    h.ok(hello("a", 1, "a-1"));
    h.ok(hello("a", 4, "a-1"));
    assert_eq!(h.core.nodes(h.now)[0].info.devices.len(), 4);
}

#[test]
fn an_inventory_with_a_device_twice_is_refused() {
    let mut h = Harness::new();
    let mut info = info("a", 1);
    info.devices.push(info.devices[0].clone());
    let event = Event::NodeHello { info, instance: instance("x"), cluster: None };
    assert_eq!(h.denied(event).reason(), "DUPLICATE_DEVICE");
}

#[test]
fn a_report_of_an_unknown_node_is_refused() {
    let mut h = Harness::new();
    let event = Event::NodeObserved { node: node_id("ghost"), observed: ObservedState::default() };
    assert_eq!(h.denied(event).reason(), "UNKNOWN_NODE");
}

#[test]
fn a_suspect_node_keeps_its_gang_and_gets_nothing_new() {
    let (mut h, job) = running();
    h.disconnect("b");
    assert_eq!(node_state(&h, "b"), NodeState::Suspect);
    assert_eq!(h.state(&job), JobState::Running);
    let waits = h.submit(spec("more", 2, 1));
    assert_eq!(h.state(&waits), JobState::Queued);
    assert!(h.job(&waits).reason.contains("b is suspect"), "{}", h.job(&waits).reason);
}

#[test]
fn a_lost_node_costs_a_generation_and_the_next_goes_without_it() {
    let (mut h, job) = running();
    lose_b(&mut h);
    h.follow(&node_id("a"));
    let view = h.job(&job);
    assert_eq!((view.state, view.generation), (JobState::Starting, Generation(2)));
    let nodes: Vec<&str> = view.replicas.iter().map(|r| r.placement.node.as_str()).collect();
    assert_eq!(nodes, ["a", "c"]);
    assert_eq!(view.restarts_infrastructure, 1);
    assert!(h.kinds().contains(&"NodeLost"));
}

#[test]
fn a_failure_while_a_node_of_the_gang_is_suspect_does_not_wait_for_its_lease() {
    let (mut h, job) = running();
    h.disconnect("b");
    h.end_task(&job, 0, ExitStatus::Code(1));
    h.follow(&node_id("a"));
    let view = h.job(&job);
    assert_eq!((view.state, view.generation), (JobState::Starting, Generation(2)));
    let failure = view.last_failure.unwrap().failure;
    assert_eq!((failure.class, failure.node), (FailureClass::Infrastructure, Some(node_id("b"))));
}

#[test]
fn a_user_stop_waits_for_a_suspect_node_until_its_lease_is_over() {
    let (mut h, job) = running();
    h.disconnect("b");
    h.ok(Event::Stop { job: job.clone(), grace: None });
    h.follow(&node_id("a"));
    assert_eq!(h.state(&job), JobState::Stopping);
    h.pass(Duration::from_secs(15));
    assert_eq!(h.state(&job), JobState::Stopped);
}

#[test]
fn a_fenced_job_waits_until_the_fence_has_certainly_fallen() {
    let mut h = Harness::with_nodes(&[("a", 1), ("b", 1), ("c", 1)]);
    let mut fenced = spec("fenced", 2, 1);
    fenced.fence = Some(Duration::from_secs(60));
    let job = h.submit(fenced);
    h.follow_all();
    h.pass(Duration::from_secs(20));
    lose_b(&mut h);
    h.follow(&node_id("a"));
    assert_eq!(h.state(&job), JobState::Stopping, "b may still run it");
    h.pass(Duration::from_secs(49));
    assert_eq!(h.state(&job), JobState::Stopping);
    h.pass(Duration::from_secs(2));
    assert_eq!((h.state(&job), h.job(&job).generation), (JobState::Starting, Generation(2)));
}

#[test]
fn devices_on_a_lost_node_stay_held_until_it_says_that_the_replica_has_ended() {
    let (mut h, job) = running();
    lose_b(&mut h);
    h.ok(Event::Stop { job, grace: None });
    h.follow(&node_id("a"));
    let report = h.reports[&node_id("b")].clone();
    h.ok(hello("b", 2, "b-1"));
    h.core.observe(h.now, Observation::SessionOpened { node: node_id("b"), instance: instance("b-1") });
    h.ok(Event::NodeObserved { node: node_id("b"), observed: report });
    let waits = h.submit(spec("next", 3, 2));
    assert!(h.job(&waits).reason.contains("b has 0 free"), "{}", h.job(&waits).reason);
    assert_eq!(h.goals("b"), [], "its agent stops what is absent");
    h.follow(&node_id("b"));
    assert_eq!(h.state(&waits), JobState::Starting);
}

#[test]
fn after_a_restart_nothing_is_judged_for_one_reconnect_window() {
    let (mut h, job) = running();
    h.core = Core::new(Config::default(), h.core.state().clone());
    h.now = h.now.after(Duration::from_secs(3_600));
    h.ok(Event::Started { new_cluster: ClusterId::new("ignored").unwrap() });
    assert_eq!(h.core.state().cluster, Some(ClusterId::new("c").unwrap()));
    assert_eq!(h.core.state().epoch, Epoch(2));
    silence(&mut h, 14);
    assert_eq!(node_state(&h, "b"), NodeState::Unknown);
    assert_eq!(h.state(&job), JobState::Running);
    h.connect(info("a", 2));
    silence(&mut h, 1);
    assert_eq!(node_state(&h, "b"), NodeState::Lost);
    assert_eq!(h.state(&job), JobState::Stopping);
}

#[test]
fn a_coordinator_away_for_hours_finds_its_jobs_running() {
    let (mut h, job) = running();
    h.core = Core::new(Config::default(), h.core.state().clone());
    h.now = h.now.after(Duration::from_secs(9_999));
    h.ok(Event::Started { new_cluster: ClusterId::new("ignored").unwrap() });
    for name in ["a", "b", "c"] {
        h.connect(info(name, 2));
    }
    h.pass(Duration::from_secs(60));
    assert_eq!((h.state(&job), h.job(&job).generation), (JobState::Running, Generation(1)));
}

#[test]
fn a_late_message_does_not_bring_an_ended_replica_back() {
    let (mut h, job) = running();
    let old = h.reports[&node_id("a")].clone();
    h.end_task(&job, 0, ExitStatus::Code(0));
    h.end_task(&job, 1, ExitStatus::Code(0));
    h.ok(Event::NodeObserved { node: node_id("a"), observed: old });
    h.end_task(&job, 2, ExitStatus::Code(0));
    h.end_task(&job, 3, ExitStatus::Code(0));
    assert_eq!(h.state(&job), JobState::Succeeded);
}

#[test]
fn a_condition_is_told_once_and_its_node_is_used_last() {
    let mut h = Harness::with_nodes(&[("a", 1), ("b", 1)]);
    let full = Condition { name: "DiskFull".to_owned(), message: "/data is full".to_owned() };
    h.edit_report("a", |report| report.conditions = vec![full]);
    h.follow(&node_id("a"));
    assert_eq!(h.messages("NodeCondition"), ["node a: DiskFull: /data is full"]);
    let job = h.submit(spec("one", 1, 1));
    assert_eq!(h.job(&job).replicas[0].placement.node, node_id("b"));
}

#[test]
fn containers_wait_for_a_nodes_engine_and_processes_do_not() {
    let mut h = Harness::new();
    h.connect(NodeInfo { runtimes: vec![RuntimeKind::Docker, RuntimeKind::Process], ..info("a", 2) });
    let down = Condition { name: Condition::DOCKER_DOWN.to_owned(), message: "nobody listens".to_owned() };
    h.edit_report("a", |report| report.conditions = vec![down]);
    let image = JobSpec { image: Some("train:1".to_owned()), ..spec("contained", 1, 1) };
    let (contained, process) = (h.submit(image), h.submit(spec("process", 1, 1)));
    assert_eq!(h.state(&process), JobState::Starting);
    assert_eq!(h.state(&contained), JobState::Queued, "and no generation is spent on it");
    let reason = h.job(&contained).reason.clone();
    assert!(reason.contains("a waits for its Docker Engine"), "{reason}");
    h.edit_report("a", |report| report.conditions.clear());
    assert_eq!(h.state(&contained), JobState::Starting);
}

#[test]
fn a_stall_of_the_coordinator_is_no_silence_of_the_nodes() {
    let (mut h, job) = running();
    h.now = h.now.after(Duration::from_secs(60));
    h.core.observe(h.now, Observation::Stalled);
    h.tick();
    assert_eq!((h.state(&job), node_state(&h, "b")), (JobState::Running, NodeState::Ready));
    silence(&mut h, 14);
    assert_eq!((h.state(&job), node_state(&h, "b")), (JobState::Running, NodeState::Ready));
    silence(&mut h, 1);
    assert_eq!(node_state(&h, "b"), NodeState::Lost, "the window is over, and it was not heard in it");
}

//! Where a gang goes, or the reason why it does not.

use convoke_core::*;
use convoke_model::*;

use crate::harness::Harness;
use crate::support::{info, node_id, spec};

fn plan(h: &Harness, spec: &JobSpec) -> Plan {
    h.core.plan(h.now, spec, &[]).expect("the spec is valid")
}

fn nodes(h: &Harness, spec: &JobSpec) -> Vec<String> {
    let placement = plan(h, spec).placement.expect("it fits");
    placement.replicas.into_iter().map(|r| r.node.to_string()).collect()
}

fn reason(h: &Harness, spec: &JobSpec) -> String {
    plan(h, spec).placement.expect_err("it does not fit")
}

fn constrained(subject: ConstraintSubject, equal: bool, value: &str) -> JobSpec {
    let constraints = vec![Constraint { subject, equal, value: value.to_owned() }];
    JobSpec { constraints, ..spec("job", 1, 1) }
}

#[test]
fn ranks_are_contiguous_over_nodes_in_order_of_name() {
    let h = Harness::with_nodes(&[("b", 2), ("a", 2), ("c", 2)]);
    let placement = plan(&h, &spec("job", 3, 2)).placement.unwrap();
    let ranks: Vec<(&str, u32, u32)> =
        placement.replicas.iter().map(|r| (r.node.as_str(), r.node_rank.0, r.first_rank.0)).collect();
    assert_eq!(ranks, [("a", 0, 0), ("b", 1, 2), ("c", 2, 4)]);
    assert_eq!(placement.world_size(), 6);
}

#[test]
fn the_node_with_the_fewest_left_over_is_taken_first() {
    let h = Harness::with_nodes(&[("a", 8), ("b", 2), ("c", 4)]);
    assert_eq!(nodes(&h, &spec("job", 1, 2)), ["b"]);
    assert_eq!(nodes(&h, &spec("job", 1, 3)), ["c"]);
    assert_eq!(nodes(&h, &spec("job", 2, 2)), ["b", "c"]);
}

#[test]
fn a_plan_leaves_those_before_it_their_places() {
    let h = Harness::with_nodes(&[("a", 2), ("b", 2)]);
    let at = |before: &[JobSpec]| h.core.plan(h.now, &spec("job", 1, 2), before).unwrap().placement;
    assert_eq!(at(&[]).unwrap().replicas[0].node, node_id("a"));
    assert_eq!(at(&[spec("first", 1, 1)]).unwrap().replicas[0].node, node_id("b"));
    let reason = at(&[spec("first", 1, 2), spec("second", 1, 1)]).unwrap_err();
    assert_eq!(reason, "needs 1 node with 2 free cpu slots; a has 0 free, b has 1 free");
    // What does not fit itself takes nothing.
    assert!(at(&[spec("wide", 3, 1)]).is_ok());
}

#[test]
fn the_reason_names_what_each_node_lacks() {
    let mut h = Harness::with_nodes(&[("gpu-03", 4), ("gpu-04", 4)]);
    h.submit(spec("small", 1, 2));
    h.disconnect("gpu-04");
    let expected = "needs 2 nodes with 4 free cpu slots; gpu-03 has 2 free, gpu-04 is suspect";
    assert_eq!(reason(&h, &spec("job", 2, 4)), expected);
}

#[test]
fn a_reason_over_many_nodes_is_summed_up() {
    let names: Vec<String> = (0..20).map(|i| format!("n{i:02}")).collect();
    let h = Harness::with_nodes(&names.iter().map(|n| (n.as_str(), 1)).collect::<Vec<_>>());
    assert!(reason(&h, &spec("job", 1, 2)).ends_with("n05 has 1, and 14 more"));
}

#[test]
fn all_takes_every_device_of_idle_nodes_only() {
    let mut h = Harness::with_nodes(&[("a", 2), ("b", 3)]);
    let mut all = spec("job", 1, 1);
    all.devices.count = DeviceCount::All;
    assert_eq!(plan(&h, &all).placement.unwrap().world_size(), 2);
    h.submit(spec("small", 1, 2));
    assert_eq!(nodes(&h, &all), ["b"]);
    h.submit(spec("other", 1, 1));
    assert!(reason(&h, &all).contains("b has 2 of 3 free"), "{}", reason(&h, &all));
}

#[test]
fn devices_are_named_by_index_or_id() {
    let h = Harness::with_nodes(&[("a", 4)]);
    let by = |ids: &[&str]| {
        let mut spec = spec("job", 1, 1);
        spec.devices.count = DeviceCount::Ids(ids.iter().map(|id| (*id).to_owned()).collect());
        spec
    };
    let placement = plan(&h, &by(&["3", "a-cpu-0"])).placement.unwrap();
    let devices: Vec<&str> = placement.replicas[0].devices.iter().map(DeviceId::as_str).collect();
    assert_eq!(devices, ["a-cpu-3", "a-cpu-0"]);
    assert!(reason(&h, &by(&["9"])).contains("a has no device 9"));
    assert!(reason(&h, &by(&["0", "a-cpu-0"])).contains("two of the names"));
}

#[test]
fn a_kind_that_no_node_has_never_fits() {
    let h = Harness::with_nodes(&[("a", 4)]);
    let mut gpu = spec("job", 1, 1);
    gpu.devices.kind = DeviceKind::Gpu;
    assert!(plan(&h, &gpu).never_fits);
    assert_eq!(reason(&h, &gpu), "needs 1 node with 1 free GPU; a has 0");
}

#[test]
fn constraints_on_host_name_and_labels_are_met() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let mut labelled = info("b", 1);
    labelled.labels.insert("zone".to_owned(), "x".to_owned());
    h.connect(labelled);
    let zone = || ConstraintSubject::Label("zone".to_owned());
    assert_eq!(nodes(&h, &constrained(zone(), true, "x")), ["b"]);
    assert_eq!(nodes(&h, &constrained(zone(), false, "x")), ["a"]);
    assert_eq!(nodes(&h, &constrained(ConstraintSubject::Hostname, false, "a")), ["b"]);
    let none = reason(&h, &constrained(zone(), true, "y"));
    assert!(none.contains("a does not meet node.labels.zone == y"), "{none}");
}

#[test]
fn containers_go_to_docker_and_commands_to_hosts_that_allow_processes() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    h.connect(NodeInfo { runtimes: vec![RuntimeKind::Docker], ..info("b", 1) });
    let image = JobSpec { image: Some("train:1".to_owned()), ..spec("job", 1, 1) };
    assert_eq!(nodes(&h, &image), ["b"]);
    assert_eq!(nodes(&h, &spec("job", 1, 1)), ["a"]);
    assert!(reason(&h, &spec("job", 2, 1)).contains("b allows no host processes"));
}

#[test]
fn replicas_go_to_distinct_nodes() {
    let h = Harness::with_nodes(&[("a", 8)]);
    let plan = plan(&h, &spec("job", 2, 1));
    assert!(plan.placement.is_err() && plan.never_fits);
}

#[test]
fn torchrun_processes_count_in_the_world() {
    let mut h = Harness::with_nodes(&[("a", 4), ("b", 4)]);
    let procs = JobSpec { layout: RankLayout::PerNode, procs_per_task: Some(4), ..spec("job", 2, 4) };
    let job = h.submit(procs);
    h.follow_all();
    let view = h.job(&job);
    assert_eq!((view.state, view.world_size), (JobState::Running, 8));
    let tasks: Vec<u32> = view.replicas.iter().flat_map(|r| &r.tasks).map(|t| t.rank.0).collect();
    assert_eq!(tasks, [0, 4], "one task a node, named by its first rank");
    assert_eq!(view.replicas[1].placement.node, node_id("b"));
}

#[test]
fn a_container_without_devices_goes_to_any_node_that_runs_containers() {
    let mut h = Harness::with_nodes(&[("a", 1)]);
    let mut board = spec("board", 1, 1);
    board.layout = RankLayout::PerNode;
    board.devices.count = DeviceCount::Count(0);
    let process = h.submit_event(board.clone());
    assert!(matches!(h.denied(process), Denied::InvalidSpec(_)), "a process needs a slot");
    board.image = Some("board".to_owned());
    let container = h.submit_event(board.clone());
    let why = "needs 1 node that runs containers; a runs no containers";
    assert_eq!(h.denied(container), Denied::NeverFits(why.to_owned()));
    h.connect(NodeInfo { runtimes: vec![RuntimeKind::Docker], ..info("b", 1) });
    let job = h.submit(board);
    let view = h.job(&job);
    assert_eq!(view.replicas[0].placement.devices, []);
    assert_eq!((view.replicas[0].placement.node.as_str(), view.world_size), ("b", 1));
}

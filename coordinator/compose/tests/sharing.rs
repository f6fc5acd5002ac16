//! Services of one project that split a host's GPUs by name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use convoke_compose::{ComposeErrors, LoadOptions, Project};
use convoke_model::DeviceCount;

/// Services from a line of keys each, by name.
fn load(services: &[(&str, &str)]) -> Result<Project, ComposeErrors> {
    let body: String =
        services.iter().map(|(name, keys)| format!("  {name}: {{image: i, {keys}}}\n")).collect();
    let files = BTreeMap::from([(PathBuf::from("/p/compose.yaml"), format!("services:\n{body}"))]);
    Project::load_from(&LoadOptions { working_dir: "/p".into(), ..LoadOptions::default() }, &files)
}

/// What each service is given, by its name.
fn devices(services: &[(&str, &str)]) -> Vec<DeviceCount> {
    let project = load(services).unwrap_or_else(|e| panic!("{e}"));
    project.jobs.into_iter().map(|job| job.devices.count).collect()
}

fn ids(list: &[&str]) -> DeviceCount {
    DeviceCount::Ids(list.iter().map(|s| (*s).to_owned()).collect())
}

const FIRST_TWO: &str = "gpus: all, environment: {CUDA_VISIBLE_DEVICES: '0,1'}";
const THIRD: &str = "gpus: [{device_ids: ['2']}]";
const SECOND: &str = "gpus: [{device_ids: ['1']}]";

#[test]
fn a_trainer_alone_takes_any_two_gpus_and_beside_a_server_on_the_third_exactly_the_first_two() {
    assert_eq!(devices(&[("train", FIRST_TWO)]), [DeviceCount::Count(2)]);
    assert_eq!(devices(&[("serve", THIRD), ("train", FIRST_TWO)]), [ids(&["2"]), ids(&["0", "1"])]);
    let visible = "gpus: all, environment: {CUDA_VISIBLE_DEVICES: '2'}";
    assert_eq!(devices(&[("serve", visible), ("train", FIRST_TWO)]), [ids(&["2"]), ids(&["0", "1"])]);
}

#[test]
fn within_a_number_of_gpus_no_gpu_of_the_node_is_named() {
    let one_of_two = "gpus: 2, environment: [CUDA_VISIBLE_DEVICES=1]";
    assert_eq!(
        devices(&[("a", one_of_two), ("b", one_of_two), ("c", SECOND)]),
        [DeviceCount::Count(1), DeviceCount::Count(1), ids(&["1"])]
    );
}

#[test]
fn two_services_that_name_one_gpu_are_refused_with_both_names() {
    let said = load(&[("serve", SECOND), ("train", FIRST_TWO)]).unwrap_err().to_string();
    assert!(said.contains("\"train\" asks for GPU 1 and so does \"serve\" (compose.yaml:2)"), "{said}");
}

#[test]
fn a_service_that_starts_when_another_is_done_may_take_its_gpus() {
    let after = |name: &str| {
        format!("{SECOND}, depends_on: {{{name}: {{condition: service_completed_successfully}}}}")
    };
    assert!(load(&[("prepare", FIRST_TWO), ("train", &after("prepare"))]).is_ok());
    // The wait may be another service's, if that one is waited for in turn.
    let through = format!("{SECOND}, depends_on: [middle]");
    let middle = "depends_on: {prepare: {condition: service_completed_successfully}}";
    assert!(load(&[("middle", middle), ("prepare", FIRST_TWO), ("train", &through)]).is_ok());
    let started = format!("{SECOND}, depends_on: [prepare]");
    assert!(load(&[("prepare", FIRST_TWO), ("train", &started)]).is_err());
    // That the middle one is done says nothing of what it was started beside.
    let middle = "depends_on: [prepare]";
    assert!(load(&[("middle", middle), ("prepare", FIRST_TWO), ("train", &after("middle"))]).is_err());
}

#[test]
fn services_that_cannot_be_on_one_node_may_name_the_same_gpu() {
    let on = |constraint: &str| format!("{SECOND}, deploy: {{placement: {{constraints: ['{constraint}']}}}}");
    let both = |a: &str, b: &str| load(&[("a", &on(a)), ("b", &on(b))]).is_ok();
    assert!(both("node.hostname == x", "node.hostname == y"));
    assert!(both("node.labels.pool == train", "node.labels.pool != train"));
    assert!(!both("node.labels.pool == train", "node.labels.pool == train"));
    assert!(!both("node.labels.pool == train", "node.hostname == y"));
    assert!(!both("node.labels.pool != train", "node.labels.pool != serve"));
}

#[test]
fn only_selected_services_share_a_node() {
    assert!(load(&[("serve", &format!("{SECOND}, profiles: [serve]")), ("train", FIRST_TWO)]).is_ok());
}

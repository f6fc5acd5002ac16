//! Which services are chosen, and for how many nodes.

use convoke_compose::LoadOptions;

use super::{load_with, only_job, text};

#[test]
fn profiles_and_names_select_services() {
    let files = [(
        "compose.yaml",
        "services:\n  a: {image: a}\n  b: {image: b, profiles: [gpu]}\n  c: {image: c, profiles: [x]}\n",
    )];
    let names = |set: fn(&mut LoadOptions)| {
        let project = load_with(&files, set).unwrap_or_else(|e| panic!("{e}"));
        project.jobs.into_iter().map(|j| j.service).collect::<Vec<_>>().join(",")
    };
    assert_eq!(names(|_| {}), "a");
    assert_eq!(names(|o| o.profiles = vec!["gpu".into()]), "a,b");
    assert_eq!(names(|o| o.profiles = vec!["*".into()]), "a,b,c");
    assert_eq!(names(|o| _ = o.env.insert("COMPOSE_PROFILES".into(), "gpu, x".into())), "a,b,c");
    assert_eq!(names(|o| o.services = vec!["c".into()]), "c");
    let error = load_with(&files, |o| o.services = vec!["z".into()]).unwrap_err().to_string();
    assert_eq!(error, "no service \"z\"; the file has: a, b, c");
}

#[test]
fn a_named_service_brings_those_it_waits_for_as_far_as_the_profiles_allow() {
    let files = [(
        "compose.yaml",
        "services:\n  train: {image: a, profiles: [gpu], depends_on: [data, log]}\n  data: {image: b, depends_on: \
         {disk: {condition: service_healthy}}}\n  disk: {image: c, profiles: [gpu]}\n  log: {image: d}\n  \
         other: {image: e}\n  odd: {image: f, depends_on: [hidden]}\n  hidden: {image: g, profiles: [x]}\n",
    )];
    let names = |service: &str| {
        load_with(&files, |o| o.services = vec![service.into()])
            .map(|p| p.jobs.into_iter().map(|j| j.service).collect::<Vec<_>>().join(","))
            .map_err(|e| e.to_string())
    };
    assert_eq!(names("train"), Ok("data,disk,log,train".to_owned()));
    assert_eq!(names("log"), Ok("log".to_owned()));
    assert!(names("odd").unwrap_err().contains("no service \"hidden\" is selected"));
}

#[test]
fn nodes_override_the_replicas_before_a_gang_is_checked() {
    let files = [("compose.yaml", text("command: torchrun --standalone t.py\ndeploy: {replicas: 4}"))];
    let files: Vec<_> = files.iter().map(|(n, t)| (*n, t.as_str())).collect();
    assert!(load_with(&files, |_| {}).is_err());
    let project = load_with(&files, |o| o.nodes = Some(1)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(only_job(project).replicas, 1);
    let error = load_with(&files, |o| o.nodes = Some(0)).unwrap_err().to_string();
    assert!(error.contains("0 is not between 1 and 100000"), "{error}");
}

#[test]
fn the_number_of_nodes_is_for_services_that_reserve_devices_where_any_does() {
    let board = "  board:\n    image: b\n    tty: true\n";
    let train = "  train:\n    image: t\n    gpus: 1\n";
    let replicas = |services: &str| -> Vec<u32> {
        let body = format!("services:\n{services}");
        let project = load_with(&[("compose.yaml", &body)], |options| options.nodes = Some(3)).unwrap();
        project.jobs.iter().map(|job| job.replicas).collect()
    };
    assert_eq!(replicas(&format!("{board}{train}")), [1, 3]);
    assert_eq!(replicas(board), [3]);
}

//! Which files are read, in which order, with which variables.

use std::collections::BTreeMap;
use std::path::PathBuf;

use convoke_compose::LoadOptions;
use convoke_model::DeviceCount;

use super::{DIR, PLAIN, load, load_with, notes, only_job, text};

#[test]
fn networks_of_several_files_are_one_map() {
    let over = "services:\n  train:\n    networks: {back: {aliases: [x]}}\n";
    let base = format!("{}networks:\n  back:\n", text("networks: [back]"));
    let project = load(&[("compose.yaml", &base), ("compose.override.yaml", over)]);
    assert!(notes(&project).contains("override.yaml:3: services.train.networks: has no effect"));
}

#[test]
fn the_first_usual_name_is_taken_with_its_override_and_the_others_are_mentioned() {
    let project = load(&[
        ("compose.yml", "services:\n  train:\n    image: first\n    command: a b\n"),
        ("docker-compose.yml", PLAIN),
        ("compose.override.yaml", "services:\n  train:\n    command: c\n"),
    ]);
    assert!(notes(&project).contains("docker-compose.yml is ignored: compose.yml comes first"));
    let job = only_job(project);
    assert_eq!((job.image.as_deref(), job.command.as_slice()), (Some("first"), &["c".to_owned()][..]));
}

#[test]
fn the_nearest_directory_above_is_searched_and_is_the_project() {
    let project = load_with(&[("compose.yaml", PLAIN)], |o| o.working_dir = format!("{DIR}/deep/er").into());
    let project = project.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((project.name.as_str(), project.dir), ("mydemo", PathBuf::from(DIR)));
}

#[test]
fn without_any_job_file_the_error_says_what_was_looked_for() {
    let error = load_with(&[], |_| {}).unwrap_err().to_string();
    assert!(error.contains("no compose.yaml or docker-compose.yml in /home/u/My Demo"), "{error}");
    let error = load_with(&[], |o| o.files = vec!["x.yaml".into()]).unwrap_err().to_string();
    assert_eq!(error, "cannot read x.yaml: no such file");
}

#[test]
fn several_files_merge_in_order_and_name_the_file_of_each_problem() {
    let both: [(&str, &str); 2] = [
        ("a.yaml", "services:\n  train:\n    image: a\n    environment: [A=1, B=1]\n    labels: {x: y}\n"),
        ("b.yaml", "services:\n  train:\n    image: b\n    environment: {B: 2}\n  extra: {image: e}\n"),
    ];
    let set = |o: &mut LoadOptions| o.files = vec!["a.yaml".into(), "b.yaml".into()];
    let project = load_with(&both, set).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(project.jobs.len(), 2);
    let train = &project.jobs[1];
    assert_eq!(train.image.as_deref(), Some("b"));
    assert_eq!((train.environment["A"].as_str(), train.environment["B"].as_str()), ("1", "2"));
    let bad = [both[0], ("b.yaml", "services:\n  train:\n    shm_size: x\n")];
    assert!(load_with(&bad, set).unwrap_err().to_string().starts_with("b.yaml:3: services.train.shm_size"));
}

#[test]
fn the_environment_beats_env_files_and_later_env_files_beat_earlier_ones() {
    let files = [
        ("compose.yaml", "services:\n  train:\n    image: \"${A}-${B}-${C}-${D:-d}\"\n"),
        (".env", "A=dot\nD=dot\n"),
        ("one.env", "A=one\nB=one\nC=one\n"),
        ("two.env", "B=two\nC=two\n"),
    ];
    let project = load_with(&files, |o| {
        o.env_files = vec!["one.env".into(), "two.env".into()];
        o.env = BTreeMap::from([("C".to_owned(), "env".to_owned())]);
    });
    assert_eq!(only_job(project.unwrap()).image.as_deref(), Some("one-two-env-d"));
    let project = load_with(&files[..2], |_| {}).unwrap();
    assert!(notes(&project).contains("compose.yaml:3: services.train.image: variable \"B\" is not set"));
    assert_eq!(only_job(project).image.as_deref(), Some("dot---dot"));
}

#[test]
fn an_env_file_that_is_broken_or_missing_is_named() {
    let with = |name: &str, text: &str| {
        let files = [("compose.yaml", PLAIN), (".env", "A=1\nB B\n"), (name, text)];
        load_with(&files, |o| o.env_files = vec!["x.env".into()]).unwrap_err().to_string()
    };
    assert_eq!(with("y.env", ""), "cannot read environment file x.env: no such file");
    assert_eq!(with("x.env", "A='\n"), "x.env:1: the value's opening ' is never closed");
    let error = load_with(&[("compose.yaml", PLAIN), (".env", "A=1\nB B\n")], |_| {}).unwrap_err();
    assert_eq!(error.to_string(), ".env:2: \"B B\" is not a KEY=value line");
}

#[test]
fn the_project_name_comes_from_the_flag_the_environment_the_file_or_the_directory() {
    let files =
        [("compose.yaml", "name: ${N:-filed}\nservices:\n  t:\n    image: ${COMPOSE_PROJECT_NAME}\n")];
    let name = |flag: Option<&str>, env: &[(&str, &str)]| {
        let project = load_with(&files, |o| {
            o.project_name = flag.map(ToOwned::to_owned);
            o.env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        });
        only_job(project.unwrap()).image.unwrap()
    };
    assert_eq!(name(Some("flagged"), &[("COMPOSE_PROJECT_NAME", "envd")]), "flagged");
    assert_eq!(name(None, &[("COMPOSE_PROJECT_NAME", "envd")]), "envd");
    assert_eq!(name(None, &[("N", "varied")]), "varied");
    assert_eq!(name(None, &[]), "filed");
    let bad = load_with(&files, |o| o.project_name = Some("No Way".to_owned())).unwrap_err();
    assert!(bad.to_string().starts_with("project name \"No Way\" (-p) may hold only"), "{bad}");
}

#[test]
fn a_service_extends_another_file_whose_paths_stay_relative_to_it() {
    let project = load(&[
        (
            "compose.yaml",
            "services:\n  train:\n    extends: {file: base/common.yaml, service: gpu}\n    command: run\n",
        ),
        (
            "base/common.yaml",
            "services:\n  root: {image: i, init: true}\n  gpu:\n    extends: root\n    gpus: 2\n    \
             env_file: v.env\n    volumes: ['./data:/data', '../up:/up', '/abs:/abs']\n    command: other\n",
        ),
        ("base/v.env", "FROM=base\n"),
    ]);
    let job = only_job(project);
    assert_eq!((job.image.as_deref(), job.container.init), (Some("i"), Some(true)));
    assert_eq!(job.devices.count, DeviceCount::Count(2));
    assert_eq!((job.command, job.environment["FROM"].as_str()), (vec!["run".to_owned()], "base"));
    let sources: Vec<_> = job.container.volumes.iter().map(|v| v.source.as_str()).collect();
    assert_eq!(sources, ["./base/data", "./up", "/abs"]);
}

#[test]
fn a_chain_of_extends_without_end_is_refused() {
    let chain: String = (0..100).map(|i| format!("  s{i}: {{extends: s{}, image: i}}\n", i + 1)).collect();
    let error =
        load_with(&[("compose.yaml", &format!("services:\n{chain}  s10000: {{image: i}}\n"))], |_| {});
    assert!(error.unwrap_err().to_string().contains("extends over more than 32 services"));
}

#[test]
fn the_line_of_a_key_is_found_in_the_file_that_has_the_last_word_or_else_its_services() {
    let base = "services:\n  train:\n    image: i\n    deploy:\n      resources:\n        limits:\n          memory: 1g\n";
    let over = "services:\n  train:\n    shm_size: 1g\n    image: j\n";
    let project = load_with(&[("a.yaml", base), ("b.yaml", over)], |options| {
        options.files = vec!["a.yaml".into(), "b.yaml".into()];
    })
    .unwrap();
    let place = |service, key| project.place_of(service, key).map(|p| (p.place.to_string(), p.found));
    assert_eq!(place("train", "deploy.resources.limits.memory"), Some(("a.yaml:7".to_owned(), true)));
    assert_eq!(place("train", "shm_size"), Some(("b.yaml:3".to_owned(), true)));
    assert_eq!(place("train", "image"), Some(("b.yaml:4".to_owned(), true)));
    assert_eq!(place("train", "ports"), Some(("b.yaml:2".to_owned(), false)));
    assert_eq!(place("train", "image.name"), Some(("b.yaml:2".to_owned(), false)));
    assert_eq!(place("serve", "image"), None);
}

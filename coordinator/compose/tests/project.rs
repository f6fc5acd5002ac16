//! Loading a project: which files, in which order, with which variables, and what is selected.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use convoke_compose::{LoadOptions, Project};
use convoke_model::{DeviceCount, DeviceKind, JobSpec, MountKind, RestartPolicy};

/// Files below `/home/u/My Demo`, which is where the user stands.
const DIR: &str = "/home/u/My Demo";

fn load_with(
    files: &[(&str, &str)],
    set: impl FnOnce(&mut LoadOptions),
) -> Result<Project, convoke_compose::ComposeErrors> {
    let files: BTreeMap<PathBuf, String> =
        files.iter().map(|(name, text)| (PathBuf::from(DIR).join(name), (*text).to_owned())).collect();
    let mut options = LoadOptions { working_dir: DIR.into(), ..LoadOptions::default() };
    set(&mut options);
    Project::load_from(&options, &files)
}

fn load(files: &[(&str, &str)]) -> Project {
    load_with(files, |_| {}).unwrap_or_else(|e| panic!("{e}"))
}

fn only_job(project: Project) -> JobSpec {
    let [job]: [JobSpec; 1] = project.jobs.try_into().expect("one job");
    job
}

/// One service from lines below `train:`.
fn service(lines: &str) -> JobSpec {
    only_job(load(&[("compose.yaml", &text(lines))]))
}

fn text(lines: &str) -> String {
    let lines: String = lines.lines().map(|l| format!("    {l}\n")).collect();
    format!("services:\n  train:\n    image: i\n{lines}")
}

fn notes(project: &Project) -> String {
    project.notes.iter().map(|n| format!("{n}\n")).collect()
}

const PLAIN: &str = "services:\n  train:\n    image: i\n";

#[test]
fn what_the_guides_write_for_one_host_is_read_with_a_note() {
    let lines = "networks: [back]\nplatform: linux/amd64\npull_policy: always\ndevelop: {watch: []}\nannotations: {a: b}";
    let project = load(&[("compose.yaml", &format!("{}networks:\n  back:\n", text(lines)))]);
    let notes = notes(&project);
    for (line, key) in [
        (4, "services.train.networks"),
        (5, "services.train.platform"),
        (6, "services.train.pull_policy"),
        (7, "services.train.develop"),
        (8, "services.train.annotations"),
        (10, "networks.back"),
    ] {
        assert!(notes.contains(&format!("compose.yaml:{line}: {key}: has no effect")), "{key}:\n{notes}");
    }
}

#[test]
fn an_external_volume_keeps_its_name_and_is_not_to_be_made() {
    let file = "services:\n  train:\n    image: i\n    volumes: ['data:/data', 'cache:/cache', 'lab:/lab']\n\
                volumes:\n  data: {external: true}\n  cache:\n  lab: {external: true, name: lab-data}\n";
    let project = load(&[("compose.yaml", file)]);
    let names: Vec<_> = project.jobs[0].container.external_volumes.iter().map(String::as_str).collect();
    assert_eq!(names, ["data", "lab-data"]);
    assert_eq!(load(&[("compose.yaml", &project.to_yaml())]).jobs, project.jobs);
}

#[test]
fn networks_of_several_files_are_one_map() {
    let over = "services:\n  train:\n    networks: {back: {aliases: [x]}}\n";
    let base = format!("{}networks:\n  back:\n", text("networks: [back]"));
    let project = load(&[("compose.yaml", &base), ("compose.override.yaml", over)]);
    assert!(notes(&project).contains("override.yaml:3: services.train.networks: has no effect"));
}

#[test]
fn limits_and_nodes_may_be_said_in_the_words_from_before_deploy() {
    let job = service("mem_limit: 1g\ncpus: 0.5\npids_limit: 10\nscale: 3");
    let limits =
        convoke_model::ResourceLimits { milli_cpus: Some(500), memory: Some(1 << 30), pids: Some(10) };
    assert_eq!((job.limits, job.replicas), (limits, 3));
    let same = "mem_limit: 1g\nscale: 3\ndeploy: {replicas: 3, resources: {limits: {memory: 1024m}}}";
    assert_eq!(service(same).replicas, 3);
}

#[test]
fn a_bare_service_gets_the_documented_defaults() {
    let job = only_job(load(&[("compose.yaml", PLAIN)]));
    assert_eq!(job.name.as_str(), "mydemo-train");
    assert_eq!((job.project.as_str(), job.service.as_str()), ("mydemo", "train"));
    assert_eq!(job.project_dir, DIR);
    assert_eq!((job.replicas, job.stop_signal), (1, 15));
    assert_eq!((job.devices.kind, job.devices.count), (DeviceKind::Cpu, DeviceCount::Count(0)));
    assert_eq!(job.restart, RestartPolicy::default());
    assert_eq!((job.stop_grace, job.failure_grace), (Duration::from_secs(10), Duration::from_secs(2)));
    assert_eq!((job.entrypoint, job.command), (None, vec![]));
}

#[test]
fn what_reserves_nothing_takes_a_slot_as_a_process_or_one_rank_per_device_and_none_as_a_container() {
    let devices = |keys: &str| {
        let file = format!("services:\n  t: {{command: [c], {keys}}}\n");
        let devices = only_job(load(&[("compose.yaml", &file)])).devices;
        assert_eq!(devices.kind, DeviceKind::Cpu, "{keys}");
        devices.count
    };
    assert_eq!(devices("image: i"), DeviceCount::Count(0));
    assert_eq!(devices("build: ."), DeviceCount::Count(0));
    assert_eq!(devices("environment: {A: 1}"), DeviceCount::Count(1));
    assert_eq!(devices("image: i, x-convoke: {ranks: per-gpu}"), DeviceCount::Count(1));
}

#[test]
fn an_extension_key_that_is_almost_ours_is_pointed_out_and_another_is_not() {
    let file = format!("{PLAIN}    x-convok:\n      priority: 5\n    x-mine: 1\n");
    let project = load(&[("compose.yaml", &file)]);
    assert!(notes(&project).contains("compose.yaml:4: services.train: \"x-convok\""), "{}", notes(&project));
    assert!(!notes(&project).contains("x-mine"));
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
fn torchruns_nproc_is_the_local_world() {
    let procs = |lines: &str| service(lines).procs_per_task;
    assert_eq!(procs("command: torchrun --nproc_per_node=4 t.py\ngpus: 4"), Some(4));
    assert_eq!(procs("command: bash -c 'torchrun --nproc-per-node 4 t.py'\ngpus: 4"), Some(4));
    assert_eq!(procs("command: torchrun --nproc_per_node=gpu t.py\ngpus: 4"), None);
    assert_eq!(procs("command: torchrun t.py\nenvironment: {PET_NPROC_PER_NODE: 2}\ngpus: 2"), Some(2));
    assert_eq!(procs("command: python t.py --nproc_per_node=4\ngpus: 4"), None);
    let two = load(&[("compose.yaml", &text("command: torchrun --nproc_per_node=2 t.py\ngpus: 4"))]);
    assert!(notes(&two).contains("compose.yaml:4: services.train.command: nproc_per_node is 2, but a node"));
}

#[test]
fn accelerates_processes_are_counted_over_all_machines() {
    let procs = |lines: &str| service(lines).procs_per_task;
    assert_eq!(procs("command: accelerate launch --num_processes 4 t.py\ngpus: 4"), Some(4));
    let shell =
        "sh -c 'accelerate launch --num_processes 8 --num_machines 2 --machine_rank $$NODE_RANK t.py'";
    assert_eq!(procs(&format!("command: {shell}\ngpus: 4\ndeploy: {{replicas: 2}}")), Some(4));
    assert_eq!(procs("command: accelerate launch t.py\ngpus: 4"), None);
    let gang = load(&[("compose.yaml", &text("command: accelerate launch t.py\ndeploy: {replicas: 2}"))]);
    assert!(notes(&gang).contains("accelerate launch meets at port 29500 whatever Convoke allocates"));
}

#[test]
fn only_what_does_not_train_starts_again_after_its_end_and_a_training_is_told_so() {
    let again = |lines: &str| service(lines).restart.after_success;
    for word in ["always", "unless-stopped"] {
        assert!(again(&format!("restart: {word}")));
        let trains = ["gpus: 1", "command: torchrun t.py", "deploy: {replicas: 2}"];
        for training in trains {
            let lines = format!("restart: {word}\n{training}");
            assert!(!again(&lines), "{lines}");
            assert!(
                notes(&load(&[("compose.yaml", &text(&lines))])).contains("has finished once it ends with 0")
            );
        }
    }
    assert!(!again("restart: on-failure") && !again(""));
}

#[test]
fn restart_words_and_policies_become_both_budgets() {
    let budget = |lines: &str| {
        let restart = service(lines).restart;
        (restart.infrastructure, restart.application, restart.delay.as_secs())
    };
    assert_eq!(budget("restart: 'no'"), (Some(0), Some(0), 0));
    assert_eq!(budget("restart: always"), (None, None, 0));
    assert_eq!(budget("restart: on-failure:5"), (Some(5), Some(5), 0));
    assert_eq!(budget("deploy: {restart_policy: {condition: none, max_attempts: 3}}"), (Some(0), Some(0), 0));
    assert_eq!(budget("deploy: {restart_policy: {max_attempts: 3, delay: 5s}}"), (Some(3), Some(3), 5));
    assert_eq!(budget("restart: 'no'\ndeploy: {restart_policy: {condition: any}}"), (None, None, 0));
}

#[test]
fn gpus_are_asked_for_in_every_way_of_compose() {
    let devices = |lines: &str| service(lines).devices.count;
    assert_eq!(devices("gpus: all"), DeviceCount::All);
    assert_eq!(devices("gpus: [{count: 2}]"), DeviceCount::Count(2));
    let reserved = |request: &str| {
        devices(&format!("deploy: {{resources: {{reservations: {{devices: [{request}]}}}}}}"))
    };
    assert_eq!(reserved("{capabilities: [gpu]}"), DeviceCount::All);
    assert_eq!(reserved("{capabilities: [gpu], count: 3}"), DeviceCount::Count(3));
    assert_eq!(
        reserved("{capabilities: [gpu], device_ids: ['1', GPU-x]}"),
        DeviceCount::Ids(vec!["1".to_owned(), "GPU-x".to_owned()])
    );
    let narrowed = service("gpus: all\nenvironment: ['CUDA_VISIBLE_DEVICES=0,1']");
    assert_eq!((narrowed.devices.count, narrowed.environment.len()), (DeviceCount::Count(2), 0));
}

#[test]
fn a_host_process_is_told_which_keys_mean_nothing_to_it() {
    let yaml = "services:\n  t:\n    command: ./run --fast\n    shm_size: 1g\n    ports: [80]\n";
    let project = load(&[("compose.yaml", yaml)]);
    let said = notes(&project);
    assert!(
        said.contains("compose.yaml:4: services.t.shm_size: has no effect: the service has no image"),
        "{said}"
    );
    assert!(
        said.contains("compose.yaml:5: services.t.ports: has no effect: the service has no image"),
        "{said}"
    );
    assert_eq!(only_job(project).argv(), ["./run", "--fast"]);
}

#[test]
fn a_relative_mount_stays_the_submitters_and_a_home_mount_is_the_nodes() {
    let files = [("compose.yaml", text("volumes: ['./a/../b:/b', '~/c:/c:ro', .:/p]"))];
    let files: Vec<_> = files.iter().map(|(n, t)| (*n, t.as_str())).collect();
    let project = load_with(&files, |o| _ = o.env.insert("HOME".into(), "/home/u".into())).unwrap();
    assert!(notes(&project).contains("\"~/c\" is /home/u/c on the nodes"));
    let volumes = only_job(project).container.volumes;
    let shown: Vec<_> = volumes.iter().map(|v| (v.kind, v.source.as_str(), v.read_only)).collect();
    let bind = MountKind::Bind;
    assert_eq!(shown, [(bind, "./b", false), (bind, "/home/u/c", true), (bind, ".", false)]);
}

#[test]
fn a_mount_by_an_absolute_path_is_said_to_be_the_nodes_unless_every_host_has_it() {
    let said = notes(&load(&[(
        "compose.yaml",
        &text(
            "volumes: ['/home/u/My Demo/data:/d', '/datasets:/s:ro', '/etc/localtime:/etc/localtime:ro', './x:/x']",
        ),
    )]));
    assert!(
        said.contains("/home/u/My Demo/data is an absolute path, so it is each node's own; write ./data"),
        "{said}"
    );
    assert!(said.contains("/datasets is each node's own"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
}

#[test]
fn the_submitters_home_is_written_out_and_what_chose_gpus_before_reservations_is_explained() {
    let body =
        text("env_file: ~/v.env\nsecrets: [s]\nruntime: nvidia\nenvironment: [NVIDIA_VISIBLE_DEVICES=all]");
    let files = BTreeMap::from([
        (PathBuf::from(DIR).join("compose.yaml"), format!("{body}secrets: {{s: {{file: ~/s}}}}\n")),
        (PathBuf::from("/home/u/v.env"), "A=1\n".to_owned()),
    ]);
    let env = BTreeMap::from([("HOME".to_owned(), "/home/u".to_owned())]);
    let options = LoadOptions { working_dir: DIR.into(), env, ..LoadOptions::default() };
    let project = Project::load_from(&options, &files).unwrap_or_else(|e| panic!("{e}"));
    let said = notes(&project);
    assert!(said.contains("runtime: has no effect, and this service reserves no GPU"), "{said}");
    assert!(said.contains("NVIDIA_VISIBLE_DEVICES is ignored, and this service reserves no GPU"), "{said}");
    let job = only_job(project);
    assert_eq!(job.container.secrets[0].file.as_deref(), Some("/home/u/s"));
    assert_eq!(job.environment["A"], "1");
}

#[test]
fn environment_values_are_what_was_written() {
    let job = service("environment: {LR: 1e-3, ON: yes, V: 3.10, N: 0x10, E: '', T: true}");
    let values: Vec<_> = job.environment.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(values, ["E=", "LR=1e-3", "N=0x10", "ON=yes", "T=true", "V=3.10"]);
}

#[test]
fn a_shells_operators_without_a_shell_are_mentioned() {
    let project = load(&[("compose.yaml", &text("command: cd /x && python t.py"))]);
    assert!(notes(&project).contains("no shell reads this, so \"&&\" is passed as an argument"));
    let folded = text("command: >\n  torchrun --nproc_per_node=4 \\\n  train.py\ngpus: 4");
    let project = load(&[("compose.yaml", &folded)]);
    assert!(
        notes(&project).contains("the backslash before \" train.py\" keeps the space"),
        "{}",
        notes(&project)
    );
}

/// Values of every shape, most of them wrong for most keys.
const VALUES: [&str; 33] = [
    "",
    "x",
    "[]",
    "{}",
    "[x]",
    "{x: y}",
    "[[x]]",
    "{x: [y]}",
    "[{x: y}]",
    "-1",
    "0",
    "1",
    "true",
    "''",
    "':'",
    "'::'",
    "[':']",
    "['=']",
    "{'': ''}",
    "[null]",
    "{x: null}",
    "'${A'",
    "1-1",
    "/x",
    "[/x]",
    "99999999999999999999",
    "[{source: x, target: y}]",
    "{test: x}",
    "'\\u0000'",
    "{file: x}",
    "[{path: ''}]",
    "{placement: {constraints: ['==']}}",
    "{checkpoint: 1}",
];

#[test]
fn any_value_of_any_key_is_refused_or_reads_back_from_what_config_prints() {
    let keys = "build cap_add command configs container_name depends_on deploy devices entrypoint env_file \
                environment expose extends extra_hosts gpus healthcheck hostname image init ipc labels \
                network_mode ports profiles restart secrets shm_size stop_grace_period stop_signal tmpfs \
                ulimits user volumes working_dir x-convoke";
    let mut accepted = 0;
    for key in keys.split(' ') {
        for value in VALUES {
            let body = format!("services:\n  s:\n    command: [c]\n    <<: {{{key}: {value}}}\n");
            let Ok(project) = load_with(&[("compose.yaml", &body)], |_| {}) else { continue };
            let again = load_with(&[("compose.yaml", &project.to_yaml())], |_| {});
            assert_eq!(again.map(|p| p.jobs), Ok(project.jobs.clone()), "{body}{}", project.to_yaml());
            accepted += 1;
        }
    }
    assert!(accepted > 100, "only {accepted} were accepted");
}

proptest::proptest! {
    #[test]
    fn any_text_as_a_job_file_is_read_or_refused(body in "\\PC{0,80}") {
        let _ = load_with(&[("compose.yaml", &body)], |_| {});
    }
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

//! What the keys of a service mean, and what is said of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use convoke_compose::{LoadOptions, Project};
use convoke_model::{DeviceCount, DeviceKind, MountKind, RestartPolicy};

use super::{DIR, PLAIN, load, load_with, notes, only_job, service, text};

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
fn where_a_restart_means_something_else_than_in_compose_it_is_told() {
    let told = |lines: &str| notes(&load(&[("compose.yaml", &text(lines))]));
    let any = told("deploy: {restart_policy: {condition: any}}");
    assert!(any.contains("restart_policy.condition: starts it again when it fails"), "{any}");
    let gang = told("restart: on-failure:3\ndeploy: {replicas: 2}");
    assert!(
        gang.contains("services.train.restart: a failing container starts its whole job again, 3 times"),
        "{gang}"
    );
    for same in [
        "restart: on-failure:3",
        "restart: on-failure\ndeploy: {replicas: 2}",
        "restart: 'no'\ndeploy: {replicas: 2}",
    ] {
        assert_eq!(told(same), "", "{same}");
    }
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

//! What Compose files become on the engine's API: beside each file of `bodies/` stand the requests for
//! its tasks, whole. After an intended change `CONVOKE_BLESS=1` writes them anew, to be read.

#![allow(clippy::unwrap_used, reason = "what cannot be made here is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use convoke_agent::engine::create::{Context, Node, body, needs_library_path};
use convoke_agent::engine::gpu::GpuFiles;
use convoke_agent::engine::{EngineError, RefusedUlimits};
use convoke_agent::files::{HostMount, HostSource};
use convoke_agent::runtime::{Container, TaskKey, TaskSpec};
use convoke_compose::{LoadOptions, Project};
use convoke_model::*;
use serde_json::{Value, json};

const GPUS: [&str; 2] = ["GPU-0", "GPU-1"];

fn bodies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bodies")
}

/// The only job of a file.
fn job(file: &str) -> JobSpec {
    let options = LoadOptions {
        working_dir: bodies(),
        files: vec![bodies().join(file)],
        project_dir: Some("/home/u/guide".into()),
        ..LoadOptions::default()
    };
    let mut jobs = Project::load(&options).unwrap_or_else(|e| panic!("{e}")).jobs;
    assert_eq!(jobs.len(), 1);
    jobs.remove(0)
}

fn host_mount(mount: &Mount) -> HostMount {
    let source = match mount.kind {
        MountKind::Bind | MountKind::Tmpfs => {
            HostSource::Path(Path::new("/home/u/guide").join(&mount.source))
        }
        MountKind::Volume if mount.source.is_empty() => HostSource::AnonymousVolume,
        MountKind::Volume => HostSource::Volume(mount.source.clone()),
    };
    HostMount { source, target: mount.target.clone(), read_only: mount.read_only }
}

fn task(spec: &JobSpec, rank: u32, gpus: &[&str], injection: Option<GpuInjection>) -> TaskSpec {
    let replica =
        ReplicaKey { job: JobId::new("j").unwrap(), generation: Generation(1), node_rank: NodeRank(0) };
    let container = Container {
        cluster: None,
        image_name: String::new(),
        name: format!("trainer-{rank}"),
        image: "sha256:0123".to_owned(),
        entrypoint: spec.entrypoint.clone(),
        command: spec.command.clone(),
        working_dir: spec.working_dir.clone(),
        mounts: spec.container.volumes.iter().map(host_mount).collect(),
        options: spec.container.clone(),
        limits: spec.limits.clone(),
        gpus: gpus.iter().map(|id| DeviceId::new(id).unwrap()).collect(),
        gpu_injection: injection,
        gang: spec.replicas > 1,
        stop_grace: Some(spec.stop_grace),
        ipc_of: (rank > 0).then(|| "trainer-0".to_owned()),
    };
    let mut environment = spec.environment.clone();
    environment.insert("MASTER_ADDR".to_owned(), "10.0.0.1".to_owned());
    TaskSpec {
        key: TaskKey { replica, rank: Rank(rank) },
        node: NodeId::new("n").unwrap(),
        argv: spec.argv(),
        environment,
        working_dir: "/".into(),
        stop_signal: spec.stop_signal,
        container: Some(Box::new(container)),
    }
}

/// A node with two GPUs and a fast network.
fn node() -> Node {
    let library = |name: &str| (name.to_owned(), PathBuf::from(format!("/usr/lib64/{name}")));
    let mut gpus = GpuFiles::default();
    gpus.minors = GPUS.iter().map(|id| (*id).to_owned()).zip(0..).collect();
    gpus.device_nodes =
        ["nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"].map(|n| Path::new("/dev").join(n)).into();
    gpus.libraries = BTreeMap::from([library("libcuda.so.1")]);
    Node { memory: 24 << 30, gpus, infiniband: true, nvidia_by_default: false }
}

fn request_on(task: &TaskSpec, node: &Node, refused: &RefusedUlimits) -> Value {
    let container = task.container.as_ref().unwrap();
    let labels = BTreeMap::from([("convoke.job".to_owned(), "j".to_owned())]);
    let context = Context { node, labels: &labels, image_library_path: Some("/opt/lib"), refused };
    let created = body(task, container, &context).unwrap();
    json!({ "body": created.body, "notes": created.notes })
}

fn request(task: &TaskSpec) -> Value {
    request_on(task, &node(), &RefusedUlimits::default())
}

fn compare(name: &str, request: &Value) {
    let file = bodies().join(name).with_extension("json");
    if std::env::var_os("CONVOKE_BLESS").is_some() {
        std::fs::write(&file, format!("{request:#}\n")).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    let expected: Value = serde_json::from_str(&expected).unwrap_or_default();
    assert_eq!(*request, expected, "{} would be:\n{request:#}", file.display());
}

#[test]
fn a_guide_s_trainer_in_a_gang_asks_for_host_networking_and_the_gpus() {
    let spec = job("trainer.yaml");
    compare("trainer-nvidia", &request(&task(&spec, 0, &GPUS, Some(GpuInjection::Nvidia))));
}

#[test]
fn without_nvidia_s_toolkit_it_asks_for_device_nodes_and_libraries() {
    let spec = job("trainer.yaml");
    let task = task(&spec, 1, &GPUS, Some(GpuInjection::Direct));
    assert!(needs_library_path(&task, task.container.as_ref().unwrap()));
    compare("trainer-direct", &request(&task));
}

#[test]
fn a_server_beside_it_publishes_its_ports_from_a_network_of_its_own() {
    compare("server", &request(&task(&job("server.yaml"), 0, &GPUS[..1], Some(GpuInjection::Nvidia))));
}

#[test]
fn every_key_of_a_container_is_in_the_request_or_in_a_note() {
    compare("everything", &request(&task(&job("everything.yaml"), 0, &[], None)));
}

#[test]
fn the_second_task_of_a_replica_joins_the_first_one_s_network_and_has_no_ports_of_its_own() {
    let request = request(&task(&job("server.yaml"), 1, &[], None));
    let host = &request["body"]["HostConfig"];
    assert_eq!(host["NetworkMode"], "container:trainer-0");
    assert_eq!(host["IpcMode"], "container:trainer-0");
    assert_eq!(host["PortBindings"], Value::Null);
    assert_eq!(host["ExtraHosts"], Value::Null);
    assert_eq!(request["body"]["Hostname"], Value::Null);
}

#[test]
fn with_host_networking_a_host_name_and_moved_ports_are_told_to_have_no_effect() {
    let mut spec = job("everything.yaml");
    spec.container.network_mode = None;
    let request = request(&task(&spec, 0, &[], None));
    assert_eq!(request["body"]["HostConfig"]["NetworkMode"], "host");
    assert_eq!(request["body"]["HostConfig"]["PortBindings"], Value::Null);
    assert_eq!(request["body"]["Hostname"], Value::Null);
    let notes = request["notes"].to_string();
    assert!(notes.contains("hostname: all has no effect") && notes.contains("ports: 8080:80"), "{notes}");
}

#[test]
fn shared_memory_is_16_gib_for_gpus_or_half_of_a_small_node() {
    let mut spec = job("trainer.yaml");
    spec.container.shm_size = None;
    let task = task(&spec, 0, &GPUS, Some(GpuInjection::Nvidia));
    let shm = |memory| {
        request_on(&task, &Node { memory, ..node() }, &RefusedUlimits::default())["body"]["HostConfig"]["ShmSize"].clone()
    };
    assert_eq!(shm(24 << 30), 12_u64 << 30);
    assert_eq!(shm(2 << 40), 16_u64 << 30);
    spec.container.ipc = Some("host".to_owned());
    let task = self::task(&spec, 0, &GPUS, Some(GpuInjection::Nvidia));
    assert_eq!(request(&task)["body"]["HostConfig"]["ShmSize"], Value::Null);
}

#[test]
fn an_ulimit_that_the_host_refused_is_left_out_with_a_note() {
    let spec = job("everything.yaml");
    let refused = RefusedUlimits::default();
    let task = task(&spec, 0, &[], None);
    let before = request(&task);
    let ulimits = serde_json::from_value::<Vec<_>>(before["body"]["HostConfig"]["Ulimits"].clone()).unwrap();
    let error = EngineError::Refused {
        what: "does not start it".to_owned(),
        status: 400,
        message: "error setting rlimit type 8: operation not permitted: unknown".to_owned(),
    };
    assert!(refused.learn(&ulimits, &error));
    let after = request_on(&task, &node(), &refused);
    assert_eq!(
        after["body"]["HostConfig"]["Ulimits"],
        json!([{ "Name": "nofile", "Soft": 1024, "Hard": 65536 }])
    );
    let notes = after["notes"].to_string();
    assert!(notes.contains("ulimit memlock (unlimited) is left out"), "{notes}");
}

#[test]
fn an_image_that_asks_for_all_gpus_gets_none_in_a_job_without() {
    let task = task(&job("everything.yaml"), 0, &[], None);
    let environment = |nvidia_by_default| {
        request_on(&task, &Node { nvidia_by_default, ..node() }, &RefusedUlimits::default())["body"]["Env"]
            .to_string()
    };
    assert!(environment(true).contains("NVIDIA_VISIBLE_DEVICES=void"));
    assert!(!environment(false).contains("NVIDIA_VISIBLE_DEVICES"));
}

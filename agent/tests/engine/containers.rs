//! Requests for containers, as the engine understands them.

use std::collections::BTreeMap;
use std::path::Path;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, LogsOptionsBuilder, StartContainerOptions, WaitContainerOptions,
};
use convoke_agent::engine::create::{Context, Node, body};
use convoke_agent::engine::{Engine, EngineError, RefusedUlimits};
use convoke_agent::files::{HostMount, HostSource};
use convoke_agent::runtime::TaskSpec;
use convoke_model::*;
use futures::StreamExt as _;

use crate::scene::{LIBRARY_PATH, Scene};
use crate::task::contained_task;

pub async fn the_engine_describes_itself(scene: &mut Scene) {
    let info = scene.engine.info().await.unwrap();
    assert!(!info.version.is_empty() && info.describe().contains(&info.version), "{info:?}");
    assert!(info.api_version.to_string().starts_with("1."), "{info:?}");
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    assert_eq!(info.cgroup_version, if unified { 2 } else { 1 });
    assert!(info.runtimes.contains(&info.default_runtime), "{info:?}");
    assert!(info.data_root.is_absolute() && !info.storage_driver.is_empty(), "{info:?}");
    assert!(info.memory > 1 << 28, "{info:?}");
    if !Path::new("/proc/driver/nvidia").exists() {
        assert_eq!(info.gpu_injection, None);
    }
    let told = scene.engine.clone().with_gpu_injection(Some(GpuInjection::Direct));
    assert_eq!(told.info().await.unwrap().gpu_injection, Some(GpuInjection::Direct));
}

fn task(scene: &Scene, image: &str, command: &str) -> TaskSpec {
    let mut task = contained_task(&scene.unique, image, &[command]);
    task.environment.insert("WORD".to_owned(), "a b".to_owned());
    let container = task.container.as_mut().unwrap();
    container.entrypoint = Some(vec!["/bin/sh".to_owned(), "-c".to_owned()]);
    container.working_dir = Some("/data".to_owned());
    task
}

fn request(task: &TaskSpec, refused: &RefusedUlimits) -> (ContainerCreateBody, Vec<String>) {
    request_on(&Node { memory: 1 << 30, ..Node::default() }, task, refused)
}

fn request_on(node: &Node, task: &TaskSpec, refused: &RefusedUlimits) -> (ContainerCreateBody, Vec<String>) {
    let labels = BTreeMap::from([("convoke.job".to_owned(), "j".to_owned())]);
    let context = Context { node, labels: &labels, image_library_path: Some(LIBRARY_PATH), refused };
    let created = body(task, task.container.as_ref().unwrap(), &context).unwrap();
    (created.body, created.notes)
}

/// Runs a container to its end and returns its output and exit code.
async fn run(scene: &mut Scene, body: ContainerCreateBody) -> Result<(String, i64), EngineError> {
    let options = CreateContainerOptionsBuilder::default().name(&scene.unique).build();
    let made = scene.docker().create_container(Some(options), body).await;
    let id = made.map_err(|e| scene.engine.error("does not make it", e))?.id;
    scene.will_remove(id.clone());
    let docker = scene.docker();
    if let Err(error) = docker.start_container(&id, None::<StartContainerOptions>).await {
        scene.clear_containers().await;
        return Err(scene.engine.error("does not start it", error));
    }
    // A code other than 0 comes as an error.
    let _ = docker.wait_container(&id, None::<WaitContainerOptions>).next().await;
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
    let mut logs = docker.logs(&id, Some(options));
    let mut output = String::new();
    while let Some(line) = logs.next().await {
        output.push_str(&line.unwrap().to_string());
    }
    let state = docker.inspect_container(&id, None).await.unwrap().state.unwrap();
    Ok((output, state.exit_code.unwrap()))
}

const LOOK: &str = "while read -r line; do echo \"$line\"; done < /proc/mounts; echo word=$WORD pid=$$; ulimit -n; \
    read -r name < /etc/hostname; echo host=$name; read -r pids < /proc/self/limits; pwd; \
    echo new > written || echo read-only; exit 7";

pub async fn a_container_finds_what_its_request_asked_for(scene: &mut Scene) {
    let shell = scene.shell();
    let image = scene.load(&shell).await.id;
    let mut task = task(scene, &image, LOOK);
    let data = scene.directory.path().join("mine");
    std::fs::create_dir(&data).unwrap();
    let container = task.container.as_mut().unwrap();
    let mount = |source, target: &str, read_only| HostMount { source, target: target.to_owned(), read_only };
    container.mounts = vec![
        mount(HostSource::Path(data.clone()), "/data", true),
        mount(HostSource::AnonymousVolume, "/volume", false),
    ];
    container.limits = ResourceLimits { milli_cpus: Some(500), memory: Some(64 << 20), pids: Some(50) };
    let options = &mut container.options;
    options.tmpfs = vec!["/scratch:size=1m".to_owned()];
    options.shm_size = Some(3 << 20);
    options.network_mode = Some("none".to_owned());
    options.hostname = Some("thinker".to_owned());
    options.ulimits.insert("nofile".to_owned(), Ulimit { soft: 300, hard: 400 });
    options.labels.insert("team".to_owned(), "vision".to_owned());

    let (body, notes) = request(&task, &RefusedUlimits::default());
    assert!(notes.is_empty(), "{notes:?}");
    let (output, code) = run(scene, body).await.unwrap();
    assert_eq!(code, 7, "{output}");
    let mounted = |target: &str| {
        let line = output.lines().find(|line| line.split(' ').nth(1) == Some(target));
        line.unwrap_or_else(|| panic!("{target} is not mounted:\n{output}"))
    };
    assert!(mounted("/scratch").contains("size=1024k"), "{output}");
    assert!(mounted("/dev/shm").contains("size=3072k"), "{output}");
    assert!(mounted("/data").split(' ').nth(3).unwrap().starts_with("ro"), "{output}");
    mounted("/volume");
    let lines: Vec<&str> = output.lines().collect();
    // The task is not process 1, which reaps what it leaves behind.
    let word = lines.iter().find(|line| line.starts_with("word=")).unwrap();
    assert!(word.starts_with("word=a b pid=") && !word.ends_with("pid=1"), "{output}");
    for line in ["300", "host=thinker", "/data", "read-only"] {
        assert!(lines.contains(&line), "no {line:?} in\n{output}");
    }
    let inspected = scene.docker().inspect_container(&scene.unique, None).await.unwrap();
    let host = inspected.host_config.unwrap();
    assert_eq!((host.memory, host.nano_cpus), (Some(64 << 20), Some(500_000_000)));
    assert_eq!((host.pids_limit, host.auto_remove), (Some(50), Some(false)));
    let labels = inspected.config.unwrap().labels.unwrap();
    assert_eq!((labels["team"].as_str(), labels["convoke.job"].as_str()), ("vision", "j"));
}

pub async fn an_ulimit_that_the_host_refuses_costs_one_try_and_not_the_task(scene: &mut Scene) {
    let shell = scene.shell();
    let image = scene.load(&shell).await.id;
    let mut task = task(scene, &image, "exit 3");
    let container = task.container.as_mut().unwrap();
    container.working_dir = None;
    container.options.network_mode = Some("none".to_owned());
    container.options.ulimits.insert("memlock".to_owned(), Ulimit { soft: -1, hard: -1 });
    container.options.ulimits.insert("nofile".to_owned(), Ulimit { soft: 64, hard: 64 });

    let refused = RefusedUlimits::default();
    let mut tries = 0;
    let (code, notes, ulimits) = loop {
        tries += 1;
        let (body, notes) = request(&task, &refused);
        let ulimits = body.host_config.as_ref().unwrap().ulimits.clone().unwrap();
        match run(scene, body).await {
            Ok((_, code)) => break (code, notes, ulimits),
            Err(error) => assert!(refused.learn(&ulimits, &error) && tries < 3, "{error}"),
        }
    };
    assert_eq!(code, 3);
    let names: Vec<_> = ulimits.iter().map(|u| u.name.as_deref().unwrap()).collect();
    // What this host does depends on its engine's rights; either way the task ran.
    if tries == 1 {
        assert_eq!((names, notes.len()), (vec!["memlock", "nofile"], 0));
    } else {
        assert_eq!((names, tries), (vec!["nofile"], 2));
        assert!(notes[0].contains("memlock (unlimited) is left out"), "{notes:?}");
    }
}

/// Where containers can get none.
pub async fn missing_gpu(engine: &Engine) -> Option<String> {
    let found = engine.info().await.ok().and_then(|info| info.gpu_injection);
    found.is_none().then(|| "no NVIDIA GPU that containers could get".to_owned())
}

pub async fn a_container_sees_the_gpu_that_it_was_given_and_no_other(scene: &mut Scene) {
    let info = scene.engine.info().await.unwrap();
    let node = Node::read(Path::new("/"), &info);
    let given = node.gpus.minors.keys().next().unwrap();
    let programs: Vec<&Path> = node.gpus.programs.values().map(std::path::PathBuf::as_path).collect();
    let image = scene.programs(&programs);
    let image = scene.load(&image).await.id;
    let mut task = task(scene, &image, "echo $LD_LIBRARY_PATH; /usr/bin/nvidia-smi -L");
    let container = task.container.as_mut().unwrap();
    container.working_dir = None;
    container.gpus = vec![DeviceId::new(given).unwrap()];
    container.gpu_injection = info.gpu_injection;

    let refused = RefusedUlimits::default();
    let (output, code) = loop {
        let (body, _) = request_on(&node, &task, &refused);
        let ulimits = body.host_config.as_ref().unwrap().ulimits.clone().unwrap_or_default();
        match run(scene, body).await {
            Ok(ended) => break ended,
            Err(error) => assert!(refused.learn(&ulimits, &error), "{error}"),
        }
    };
    println!("{:?}: {output}", info.gpu_injection);
    assert_eq!(code, 0, "{output}");
    assert!(output.contains(given), "{output}");
    assert_eq!(output.matches("GPU-").count(), 1, "{output}");
    if info.gpu_injection == Some(GpuInjection::Direct) {
        assert!(output.contains("/usr/local/nvidia/lib64:/opt/lib"), "{output}");
    }
}

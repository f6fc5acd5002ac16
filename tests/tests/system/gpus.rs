//! GPUs as NVML tells them, through an agent and the coordinator; the library is a stand-in.

use convoke_proto::v1;
use convoke_tests::process::Process;
use convoke_tests::{ClusterOptions, FakeNvml, LocalCluster, binary, eventually, sh};
use tempfile::TempDir;

struct Host {
    nvml: FakeNvml,
    _directory: TempDir,
}

/// A cluster of one agent on a host with GPUs.
async fn cluster(gpus: usize, args: &[&str]) -> (LocalCluster, Host) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let nvml = FakeNvml::new(directory.path(), gpus);
    let host = Host { nvml, _directory: directory };
    let cluster = start(&host, args).await;
    (cluster, host)
}

async fn start(host: &Host, args: &[&str]) -> LocalCluster {
    let library = format!("--nvml-library={}", host.nvml.library().display());
    let agent_args = std::iter::once(library).chain(args.iter().map(|arg| (*arg).to_owned())).collect();
    let options = ClusterOptions { slots: vec![1], agent_args, ..ClusterOptions::default() };
    LocalCluster::start_with(options).await
}

/// Waits until the node is as it should be.
async fn until(cluster: &LocalCluster, what: &str, is: impl Fn(&v1::Node) -> bool) -> v1::Node {
    eventually(what, async || cluster.nodes().await.into_iter().find(&is)).await
}

fn gpus(node: &v1::Node) -> Vec<v1::Device> {
    let devices = node.info.clone().unwrap_or_default().devices;
    devices.into_iter().filter(|device| device.kind() == v1::DeviceKind::Gpu).collect()
}

fn has(node: &v1::Node, condition: &str) -> bool {
    node.conditions.iter().any(|c| c.name == condition)
}

fn problems(node: &v1::Node) -> Vec<(String, String)> {
    node.device_conditions.iter().map(|c| (c.device.clone(), c.name.clone())).collect()
}

/// A job on so many GPUs that prints which it sees.
fn on_gpus(name: &str, count: v1::device_request::Count) -> convoke_tests::Job {
    sh(name, "echo \"sees $CUDA_VISIBLE_DEVICES\"").with(|spec| {
        spec.devices = Some(v1::DeviceRequest { kind: v1::DeviceKind::Gpu.into(), count: Some(count) });
        spec.layout = v1::RankLayout::PerNode.into();
    })
}

fn named(ids: &[&str]) -> v1::device_request::Count {
    let values = ids.iter().map(|id| (*id).to_owned()).collect();
    v1::device_request::Count::Ids(v1::StringList { values })
}

#[tokio::test]
async fn gpus_are_told_in_pci_order_with_their_links_and_what_they_do_now() {
    let (cluster, mut host) = cluster(4, &[]).await;
    let sampled = |node: &v1::Node| node.gpu_samples.len() == 4;
    let node = until(&cluster, "samples come", sampled).await;
    let info = node.info.clone().unwrap();
    assert_eq!((info.gpu_driver.as_str(), info.cuda_version.as_str()), ("580.159.04", "13.0"));
    let gpu = gpus(&node)[3].clone();
    assert_eq!((gpu.id, gpu.index, gpu.memory), (FakeNvml::uuid(3), 3, 80 << 30));
    let about = gpu.gpu.unwrap();
    assert_eq!((about.pci_bus_id.as_str(), about.compute_capability.as_str()), ("00000000:13:00.0", "9.0"));
    assert_eq!((about.numa_node, about.mig, about.ecc), (Some(0), Some(false), Some(true)));
    assert_eq!(about.nvlink_peers, [v1::NvlinkPeer { device: FakeNvml::uuid(2), links: 4 }]);
    host.nvml.set(1, "util", "97");
    host.nvml.set(1, "used", &(100_u64 << 20).to_string());
    let busy = |node: &v1::Node| {
        node.gpu_samples
            .iter()
            .any(|s| s.utilization_percent == Some(97) && s.nvlink_sent_per_second > Some(0))
    };
    let node = until(&cluster, "the samples follow", busy).await;
    let sample = node.gpu_samples.iter().find(|s| s.device == FakeNvml::uuid(1)).unwrap();
    assert_eq!((sample.power_mw, sample.temperature_celsius), (Some(350_000), Some(41)));
    assert!(sample.pcie_received_per_second > Some(0));
    let table = cluster.cli(&["nodes", "--gpus"]).run().await.stdout;
    let line = table.lines().find(|line| line.contains("97 %")).unwrap_or_else(|| panic!("{table}"));
    for part in ["node-0", "Fake H100", "100.0 MiB / 80.0 GiB", "350/700 W", "41 °C", "ok"] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    cluster.finish().await;
}

#[tokio::test]
async fn a_task_that_was_given_gpu_3_sees_the_uuid_of_the_fourth_on_the_bus_however_nvml_lists_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut nvml = FakeNvml::new(directory.path(), 4);
    nvml.reverse();
    let host = Host { nvml, _directory: directory };
    let cluster = start(&host, &[]).await;
    let job = cluster.submit(&on_gpus("third", named(&["3"]))).await;
    cluster.wait_line(&job, &format!("sees {}", FakeNvml::uuid(3))).await;
    // The user's order is the task's numbering.
    let job = cluster.submit(&on_gpus("both", named(&[&FakeNvml::uuid(2), "0"]))).await;
    cluster.wait_line(&job, &format!("sees {},{}", FakeNvml::uuid(2), FakeNvml::uuid(0))).await;
    cluster.wait_state(&job, v1::JobState::Succeeded).await;
    cluster.finish().await;
}

#[tokio::test]
async fn an_agent_owns_the_gpus_it_was_told_and_they_keep_their_numbers() {
    let second = FakeNvml::uuid(1);
    let (cluster, host) = cluster(4, &[&format!("--gpus=3,{second}")]).await;
    let node = until(&cluster, "samples come", |node| node.gpu_samples.len() == 2).await;
    let owned: Vec<(u32, String)> = gpus(&node).into_iter().map(|gpu| (gpu.index, gpu.id)).collect();
    assert_eq!(owned, [(1, second), (3, FakeNvml::uuid(3))]);
    let library = format!("--nvml-library={}", host.nvml.library().display());
    let log = cluster.directory().join("refused.log");
    let state_dir = format!("--state-dir={}", cluster.directory().join("refused").display());
    let args = [library.as_str(), "--no-docker", state_dir.as_str(), "--gpus=1,9", "--node=refused"];
    let mut refused = Process::start(&binary("convoke-agent"), &args, &log);
    let status = eventually("it has ended", async || refused.ended()).await;
    assert_eq!(status.code(), Some(1));
    let said = refused.log();
    assert!(said.contains("--gpus names 9, which this host does not have; it has 0 (GPU-"), "{said}");
    cluster.finish().await;
}

#[tokio::test]
async fn a_gpu_that_is_lost_is_avoided_with_its_reason_and_taken_again_when_it_is_back() {
    let (cluster, mut host) = cluster(2, &[]).await;
    cluster.announce("node-0", "GPU 1: ");
    host.nvml.set(1, "fail", "15");
    let lost = |node: &v1::Node| problems(node) == [(FakeNvml::uuid(1), "GpuLost".to_owned())];
    let node = until(&cluster, "it is told", lost).await;
    assert!(node.device_conditions[0].blocks && gpus(&node).len() == 2 && !has(&node, "NvmlDown"));
    let both = v1::device_request::Count::Exactly(2);
    let job = cluster.submit(&on_gpus("both", both)).await;
    let waits = |job: &v1::Job| job.reason.contains("node-0 has 1 free (1: GpuLost)");
    cluster.wait_for(&job, "it waits with the reason", waits).await;
    let one = cluster.submit(&on_gpus("one", v1::device_request::Count::Exactly(1))).await;
    cluster.wait_line(&one, &format!("sees {}", FakeNvml::uuid(0))).await;
    host.nvml.set(1, "fail", "");
    cluster.wait_line(&job, &format!("sees {},{}", FakeNvml::uuid(0), FakeNvml::uuid(1))).await;
    cluster.wait_state(&job, v1::JobState::Succeeded).await;
    until(&cluster, "nothing is wrong", |node| node.device_conditions.is_empty()).await;
    cluster.finish().await;
}

#[tokio::test]
async fn an_xid_error_that_needs_a_reset_takes_the_gpu_out_of_use_and_an_applications_own_does_not() {
    let (cluster, mut host) = cluster(2, &[]).await;
    cluster.announce("node-0", "Xid ");
    host.nvml.add("xid 1 0 13");
    let seen =
        |node: &v1::Node| node.gpu_samples.iter().any(|s| s.last_xid.is_some_and(|xid| xid.code == 13));
    let node = until(&cluster, "the first is seen", seen).await;
    assert_eq!(problems(&node), []);
    host.nvml.add("xid 2 1 79");
    let node = until(&cluster, "the second is told", |node| !node.device_conditions.is_empty()).await;
    assert_eq!(problems(&node), [(FakeNvml::uuid(1), "GpuXid".to_owned())]);
    assert!(node.device_conditions[0].message.contains("Xid 79, the GPU has fallen off the bus"));
    cluster.finish().await;
}

#[tokio::test]
async fn work_goes_on_while_nvml_is_gone_and_new_work_waits_until_it_is_back() {
    let (cluster, mut host) = cluster(2, &[]).await;
    cluster.announce("node-0", "NVML does not answer");
    let mut gate = cluster.gate("go-on");
    let script = format!("echo \"sees $CUDA_VISIBLE_DEVICES\"; {}", gate.wait());
    let running =
        on_gpus("running", v1::device_request::Count::Exactly(1)).with(|spec| spec.command[2] = script);
    let running = cluster.submit(&running).await;
    cluster.wait_state(&running, v1::JobState::Running).await;
    // A driver that was updated under the library: NVML_ERROR_LIB_RM_VERSION_MISMATCH.
    host.nvml.add("init 18");
    let node = until(&cluster, "it is told", |node| has(node, "NvmlDown")).await;
    assert!(node.conditions[0].message.contains("the driver was updated"), "{:?}", node.conditions);
    assert_eq!(gpus(&node).len(), 2, "what was known stays");
    let job = cluster.submit(&on_gpus("new", v1::device_request::Count::Exactly(1))).await;
    let waits = |job: &v1::Job| job.reason.contains("node-0 waits for NVML to answer");
    cluster.wait_for(&job, "it waits with the reason", waits).await;
    assert_eq!(cluster.job(&running).await.state(), v1::JobState::Running);
    host.nvml.remove("init");
    cluster.wait_line(&job, "sees GPU-").await;
    until(&cluster, "the condition is gone", |node| !has(node, "NvmlDown")).await;
    gate.open();
    cluster.wait_state(&running, v1::JobState::Succeeded).await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_call_to_nvml_that_hangs_is_told_and_holds_nothing_else_up() {
    let (cluster, mut host) = cluster(1, &[]).await;
    cluster.announce("node-0", "NVML has not answered");
    host.nvml.add("hang");
    until(&cluster, "it is told", |node| has(node, "NvmlDown")).await;
    let job = cluster.submit(&sh("beside", "echo done")).await;
    cluster.wait_state(&job, v1::JobState::Succeeded).await;
    host.nvml.remove("hang");
    until(&cluster, "the condition is gone", |node| !has(node, "NvmlDown")).await;
    cluster.finish().await;
}

#[tokio::test]
async fn an_agent_that_starts_without_nvml_says_so_and_offers_the_gpus_once_it_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let mut nvml = FakeNvml::new(directory.path(), 2);
    nvml.add("init 9");
    let mut host = Host { nvml, _directory: directory };
    let cluster = start(&host, &[]).await;
    cluster.announce("node-0", "NVML does not answer: NVIDIA driver is not loaded");
    let node = until(&cluster, "it is told", |node| has(node, "NvmlDown")).await;
    assert!(gpus(&node).is_empty());
    host.nvml.remove("init");
    until(&cluster, "they are offered", |node| gpus(node).len() == 2 && !has(node, "NvmlDown")).await;
    let job = cluster.submit(&on_gpus("both", v1::device_request::Count::All(true))).await;
    cluster.wait_state(&job, v1::JobState::Succeeded).await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_gpu_is_held_until_its_memory_is_back_and_quarantined_if_it_does_not_come() {
    let (cluster, mut host) = cluster(2, &[]).await;
    cluster.announce("node-0", "quarantined");
    cluster.announce("node-0", "GPU 0: not clean");
    until(&cluster, "samples come", |node| node.gpu_samples.len() == 2).await;
    let one = || v1::device_request::Count::Exactly(1);
    let mut gate = cluster.gate("end");
    let script = format!("echo runs; {}", gate.wait());
    let job = cluster.submit(&on_gpus("leaks", one()).with(|spec| spec.command[2] = script)).await;
    cluster.wait_line(&job, "runs").await;
    host.nvml.set(0, "used", &(10_u64 << 30).to_string());
    gate.open();
    // Its process is gone, and its GPU is not clean: others are told to wait, or go elsewhere.
    let exited = |job: &v1::Job| job.replicas[0].tasks[0].exit.is_some();
    let job = cluster.wait_for(&job, "its task has ended", exited).await;
    assert_eq!(job.state(), v1::JobState::Running);
    let quarantined = |node: &v1::Node| problems(node) == [(FakeNvml::uuid(0), "GpuQuarantined".to_owned())];
    let node = until(&cluster, "it is quarantined", quarantined).await;
    let message = &node.device_conditions[0].message;
    assert!(message.contains("10.0 GiB of its memory are in use, and NVML shows no process"), "{message}");
    cluster.wait_state(&job.id, v1::JobState::Succeeded).await;
    let other = cluster.submit(&on_gpus("other", one())).await;
    cluster.wait_line(&other, &format!("sees {}", FakeNvml::uuid(1))).await;
    host.nvml.set(0, "used", "0");
    until(&cluster, "it is clean", |node| node.device_conditions.is_empty()).await;
    let both = cluster.submit(&on_gpus("both", v1::device_request::Count::All(true))).await;
    cluster.wait_state(&both, v1::JobState::Succeeded).await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_gpu_that_somebody_else_holds_is_busy_and_by_whom_is_told() {
    let (cluster, mut host) = cluster(2, &[]).await;
    cluster.announce("node-0", "holds it");
    let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    host.nvml.add(format!("process 0 {} {}", other.id(), 3_u64 << 30));
    let busy = |node: &v1::Node| problems(node) == [(FakeNvml::uuid(0), "GpuBusy".to_owned())];
    let node = until(&cluster, "it is told", busy).await;
    let message = &node.device_conditions[0].message;
    assert!(message.contains(&format!("pid {} (sleep) of user ", other.id())), "{message}");
    assert!(message.contains("with 3.0 GiB"), "{message}");
    let both = cluster.submit(&on_gpus("both", v1::device_request::Count::Exactly(2))).await;
    let waits = |job: &v1::Job| job.reason.contains("node-0 has 1 free (0: GpuBusy)");
    cluster.wait_for(&both, "it waits with the reason", waits).await;
    assert!(other.try_wait().unwrap().is_none(), "nobody touched it");
    other.kill().unwrap();
    other.wait().unwrap();
    host.nvml.remove("process");
    cluster.wait_state(&both, v1::JobState::Succeeded).await;
    cluster.finish().await;
}

//! What a gang needs of the network between its nodes, and `network_mode`.

use std::fs;
use std::time::{Duration, Instant};

use convoke_proto::v1;
use convoke_tests::{BASE, ClusterOptions, Job, LocalCluster, Scene, repository};

use super::namespaces::{INTERFACE, Networks};

pub(crate) async fn a_gang_whose_nodes_do_not_reach_each_other_waits_by_name_and_runs_once_they_do() {
    let networks = Networks::new();
    let options = ClusterOptions {
        slots: vec![1, 1],
        address: networks.host(),
        namespaces: vec![networks.name(0), networks.name(1)],
        ..ClusterOptions::default()
    };
    let cluster = LocalCluster::start_with(options).await;
    let data = repository().join("examples/mnist/data").display().to_string();
    networks.black_hole("replace");
    let asked = Instant::now();
    let gang = Job::new("gang", ["convoke-trainer", "--data", &data, "--epochs", "1"]).gang(2, 1);
    let id = cluster.submit(&gang).await;
    let told = |job: &v1::Job| job.reason.contains("cannot reach");
    let job = cluster.wait_for(&id, "it says who does not reach whom", told).await;
    assert!(asked.elapsed() < Duration::from_secs(30), "it took {:?}", asked.elapsed());
    let (first, second) = (networks.node(0).to_string(), networks.node(1).to_string());
    for word in ["node-0", "node-1", &first, &second, INTERFACE, "firewall"] {
        assert!(job.reason.contains(word), "no \"{word}\" in: {}", job.reason);
    }
    assert_eq!(cluster.log_so_far(&id).await.map(|lines| lines.len()), Some(0), "nothing was started");

    networks.black_hole("delete");
    cluster.wait_state(&id, v1::JobState::Succeeded).await;
    let log = cluster.log(&id).await;
    assert!(log.iter().any(|line| line.text.starts_with("Epoch 1/1, Loss: ")), "{log:?}");
    cluster.finish().await;
}

pub(crate) async fn network_mode_host_bridge_and_none_are_what_docker_makes_of_them() {
    let scene = Scene::start(&[3]).await;
    let service = |mode: &str| {
        format!(
            "  {mode}:\n    image: {BASE}\n    network_mode: {mode}\n    command: [sh, -c, \"readlink /proc/self/ns/net; \
             ls /sys/class/net | grep -v lo | wc -l\"]\n"
        )
    };
    let services: String = ["host", "bridge", "none"].map(service).concat();
    scene.write("docker-compose.yml", &format!("name: modes\nservices:\n{services}"));
    scene.convoke(&["up"]).run().await.expect_code(0);
    let host = fs::read_link("/proc/self/ns/net").expect("it can be read").display().to_string();
    let lines = async |mode: &str| {
        let log = scene.cluster.log(&format!("modes-{mode}")).await;
        log.into_iter().map(|line| line.text).collect::<Vec<_>>()
    };
    assert_eq!(lines("host").await[0], host);
    let (bridge, none) = (lines("bridge").await, lines("none").await);
    assert!(bridge[0] != host && none[0] != host && bridge[0] != none[0], "{bridge:?} {none:?} {host}");
    assert_eq!((bridge[1].as_str(), none[1].as_str()), ("1", "0"), "interfaces beside lo");
    scene.cluster.finish().await;
}

pub(crate) async fn a_network_mode_that_would_part_a_gang_is_refused_by_its_line() {
    let scene = Scene::start(&[1, 1]).await;
    let up = async |keys: &str, code: i32, words: &[&str]| {
        scene.compose(&format!("image: {BASE}\n{keys}"));
        let up = scene.convoke(&["up", "--nodes", "2"]).run().await.expect_code(code);
        for word in words {
            assert!(up.stderr.contains(word), "no \"{word}\" in:\n{}", up.stderr);
        }
    };
    let line = "docker-compose.yml:5: services.job.network_mode";
    for mode in ["bridge", "none"] {
        let keys = format!("network_mode: {mode}\ncommand: torchrun --nproc_per_node=1 train.py");
        up(&keys, 2, &[line, "keeps the ranks on 2 nodes from reaching each other; remove it"]).await;
    }
    // Whether these need each other, nobody can tell before.
    let keys = "network_mode: bridge\ncommand: python train.py";
    up(keys, 1, &[line, "the replicas of a gang of 2 could not reach each other; leave network_mode out"])
        .await;
    for other in ["service:other", "container:other"] {
        let keys = format!("network_mode: \"{other}\"\ncommand: python train.py");
        up(&keys, 2, &[line, "is not supported by Convoke, it may be on another node; use host"]).await;
    }
    scene.cluster.finish().await;
}

//! What a gang needs of the network between its nodes.

use std::time::{Duration, Instant};

use convoke_proto::v1;
use convoke_tests::{ClusterOptions, Job, LocalCluster, repository};

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

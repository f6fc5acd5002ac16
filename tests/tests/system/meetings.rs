//! A gang whose replicas do not meet is warned; an interface that a node lacks is refused.

use convoke_proto::v1;
use convoke_tests::{ClusterOptions, LocalCluster, sh};

#[tokio::test]
async fn a_gang_whose_replicas_never_meet_is_warned_by_name_and_goes_on() {
    let options = ClusterOptions {
        slots: vec![1, 1],
        agent_args: vec!["--meeting-patience=200ms".to_owned()],
        ..ClusterOptions::default()
    };
    let cluster = LocalCluster::start_with(options).await;
    cluster.announce("node-0", "nobody has listened");
    let mut gate = cluster.gate("warned");
    let id = cluster.submit(&sh("alone", &gate.wait()).gang(2, 1)).await;
    let warned = |job: &v1::Job| job.replicas.iter().any(|r| !r.conditions.is_empty());
    let job = cluster.wait_for(&id, "it is warned", warned).await;
    let conditions: Vec<_> = job.replicas.iter().flat_map(|r| &r.conditions).collect();
    assert_eq!(conditions.len(), 1, "{conditions:?}");
    assert_eq!(conditions[0].name, "NeverMet");
    let said = &conditions[0].message;
    assert!(said.contains("nobody has listened") && said.contains("init_process_group"), "{said}");
    let inspect = cluster.cli(&["inspect", "alone"]).run().await.expect_code(0);
    assert!(inspect.stdout.contains("nobody has listened"), "{}", inspect.stdout);
    gate.open();
    cluster.wait_state(&id, v1::JobState::Succeeded).await;
    cluster.finish().await;
}

#[tokio::test]
async fn an_interface_that_a_variable_names_and_a_node_lacks_is_refused_by_name() {
    let cluster = LocalCluster::start(&[1, 1]).await;
    let job = sh("ib", "exit 0").gang(2, 1).variable("NCCL_SOCKET_IFNAME", "ib77");
    let id = cluster.submit(&job).await;
    let job = cluster.wait_state(&id, v1::JobState::Failed).await;
    for word in ["node-", "NCCL_SOCKET_IFNAME=ib77", "lo"] {
        assert!(job.reason.contains(word), "no \"{word}\" in: {}", job.reason);
    }
    assert!(cluster.log(&id).await.is_empty(), "nothing was started");
    cluster.finish().await;
}

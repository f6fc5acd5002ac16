//! A submitter behind a slow uplink.

use convoke_tests::{ClusterOptions, JOB, Scene};

use super::namespaces::Networks;

/// All that a connection may have under way, sent at once, takes the link for longer than a keep-alive may take.
const SIZE: usize = 5 << 20;

pub(crate) async fn what_a_slow_uplink_takes_long_for_arrives_and_the_coordinator_never_went_away() {
    let networks = Networks::new();
    let options = ClusterOptions { address: networks.host(), ..ClusterOptions::containers(&[1]) };
    let scene = Scene::start_with(options).await;
    scene.script("wc -c < /data/big", "volumes: [\"./data:/data:ro\"]");
    scene.write("data/big", "little");
    // The image is there from then on.
    scene.convoke(&["up"]).run().await.expect_code(0);
    scene.write("data/big", &"x".repeat(SIZE));
    networks.slow_down();
    let up = scene.convoke(&["up"]).within(&networks.name(0)).run().await.expect_code(0);
    assert!(up.stderr.contains("shipped 1 of 1 file, 5.0 MiB"), "{}", up.stderr);
    assert!(!up.stderr.contains("went away") && !up.stderr.contains("no answer"), "{}", up.stderr);
    let log = scene.cluster.log(JOB).await;
    assert_eq!(log.iter().map(|line| line.text.trim()).collect::<Vec<_>>(), [SIZE.to_string()]);
    scene.cluster.finish().await;
}

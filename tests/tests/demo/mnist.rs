//! The reference trainer on real digits, as a job.

use std::collections::BTreeMap;
use std::fs;

use convoke_proto::v1;
use convoke_tests::{LocalCluster, repository};

/// Writes a job file that trains the example with these arguments; returns its path.
fn job_file(cluster: &LocalCluster, name: &str, args: &str, service: &str) -> String {
    let file = cluster.directory().join(format!("{name}.yaml"));
    let data = repository().join("examples/mnist/data");
    let text = format!(
        "name: {name}\nservices:\n  {name}:\n    command: convoke-trainer --data {} {args}\n{service}",
        data.display()
    );
    fs::write(&file, text).expect("it is writable");
    file.display().to_string()
}

const GANG: &str = "    deploy:
      replicas: 2
      resources: {reservations: {devices: [{driver: cpu, count: 2, capabilities: [cpu]}]}}
      restart_policy: {condition: on-failure, max_attempts: 3}
    x-convoke: {ranks: per-gpu}
";

/// A checkpoint's files by path, without what depends on the clock.
async fn model(cluster: &LocalCluster, job: &str) -> BTreeMap<String, Vec<u8>> {
    let files = cluster.pull(job).await;
    files.into_iter().map(|(_, path, content)| (path, content)).collect()
}

#[tokio::test]
async fn a_run_that_fails_and_resumes_ends_with_the_same_bits_as_one_that_does_not() {
    let _alone = crate::alone().await;
    let cluster = LocalCluster::start(&[2, 2]).await;
    let steady = job_file(&cluster, "steady", "--epochs 2", GANG);
    cluster.cli(&["-f", &steady, "up"]).run().await.expect_code(0);
    let broken = "--epochs 2 --checkpoint-every 5 --fail-at-step 18 --fail-rank 3";
    let broken = job_file(&cluster, "broken", broken, GANG);
    let up = cluster.cli(&["-f", &broken, "up"]).run().await.expect_code(0);
    assert!(up.stdout.contains("Resumed from step 15"), "{}", up.stdout);

    let job = cluster.job("broken").await;
    assert_eq!((job.state(), job.generation, job.world_size), (v1::JobState::Succeeded, 2, 4));
    assert_eq!(job.resumed_from.map(|from| from.step), Some(15));
    let (steady, broken) = (model(&cluster, "steady").await, model(&cluster, "broken").await);
    assert!(steady.keys().any(|path| path.ends_with(".safetensors")), "{:?}", steady.keys());
    assert_eq!(steady.keys().collect::<Vec<_>>(), broken.keys().collect::<Vec<_>>());
    for (path, content) in &steady {
        assert!(*content == broken[path], "{path} differs");
    }
    let losses = cluster.metrics("steady").await;
    let loss = |m: &v1::MetricRecord| m.values.get("loss").copied().filter(|_| m.rank == 0);
    let losses: Vec<f64> = losses.iter().filter_map(loss).collect();
    assert!(losses.len() > 10 && losses[losses.len() - 1] < losses[0] / 2.0, "{losses:?}");
    cluster.finish().await;
}

#[tokio::test]
async fn the_example_trains_through_up_and_reports_what_it_does() {
    let _alone = crate::alone().await;
    let cluster = LocalCluster::start(&[2, 2]).await;
    let example = repository().join("examples/mnist/compose.yaml").display().to_string();
    let shorter = cluster.directory().join("shorter.yaml");
    fs::write(&shorter, "services:\n  train:\n    command: convoke-trainer --data data --epochs 1\n")
        .expect("it is writable");
    let shorter = shorter.display().to_string();
    let up = cluster.cli(&["-f", &example, "-f", &shorter, "up"]).run().await.expect_code(0);
    assert!(up.stdout.contains("Epoch 1/1, Loss: "), "{}", up.stdout);
    let job = cluster.job("mnist-train").await;
    assert_eq!((job.world_size, job.replicas.len()), (4, 2));
    let metrics = cluster.metrics("mnist-train").await;
    assert!(metrics.iter().any(|m| m.values.contains_key("test_accuracy")));
    assert!(metrics.iter().any(|m| m.values.contains_key("samples_per_second")));
    let checkpoints = cluster.checkpoints("mnist-train").await;
    assert!(
        checkpoints.iter().all(|c| c.state() == v1::CheckpointState::Complete) && !checkpoints.is_empty()
    );
    cluster.finish().await;
}

//! Engines of the nodes' own: a gang over two of them, and one that stops in the middle of a job.

use convoke_proto::v1;
use convoke_tests::{BASE, JOB, repository};

use super::hosts::Hosts;

pub(crate) async fn a_gang_on_two_hosts_with_engines_of_their_own_gets_its_image_and_meets() {
    let hosts = Hosts::start(&[1, 1]).await;
    let scene = &hosts.scene;
    let script = "ping -c 1 $(hostname) | head -n 1
        if [ $NODE_RANK = 0 ]; then
          echo met > /out/file
          echo 'hello from node rank 0' | nc -l -p $MASTER_PORT
        else
          until nc $MASTER_ADDR $MASTER_PORT; do sleep 0.1; done
        fi";
    scene.script(script, "volumes: [\"./out:/out\"]");

    let up = scene.convoke(&["up", "--nodes", "2"]).run().await.expect_code(0);
    assert!(up.stderr.contains(&format!("image {BASE}, which no registry has: shipped ")), "{}", up.stderr);
    assert!(up.stdout.contains("rank 1 · node-1 │ hello from node rank 0"), "{}", up.stdout);
    for node in 0..2 {
        let line = format!("rank {node} · node-{node} │ PING ");
        let own = format!("({})", hosts.networks.node(node));
        let knows_itself = |l: &str| l.starts_with(&line) && l.contains(&own);
        assert!(up.stdout.lines().any(knows_itself), "no {own}, as others see it:\n{}", up.stdout);
    }
    assert_eq!(scene.read("out/file").as_deref(), Some("met\n"));
    assert_eq!(scene.cluster.job(JOB).await.state(), v1::JobState::Succeeded);
    hosts.finish().await;
}

/// Runs jobs of `tests/frameworks` as they stand, on two nodes; every rank of the file's world says the sum of all.
async fn frameworks(directory: &str, files: &[(&str, usize)]) {
    let hosts = Hosts::start(&[2, 2]).await;
    let directory = repository().join("tests/frameworks").join(directory);
    for (file, world) in files.iter().copied() {
        let sum = world * (world - 1) / 2;
        let up = hosts.scene.convoke(&["-f", file, "up", "--nodes", "2"]).directory(&directory).run().await;
        let up = up.expect_code(0);
        let line = format!("of {world}: the ranks add up to {sum}");
        let said: Vec<_> = up.stdout.lines().filter(|l| l.ends_with(&line)).collect();
        assert_eq!(said.len(), world, "{}", up.stdout);
        println!("{file}\n{}", said.join("\n"));
    }
    hosts.finish().await;
}

pub(crate) async fn pytorch_spans_two_hosts_under_torchrun_and_without_a_launcher() {
    frameworks("torch", &[("torchrun.yaml", 4), ("one-per-node.yaml", 2), ("per-gpu.yaml", 4)]).await;
}

pub(crate) async fn jax_spans_two_hosts() {
    frameworks("jax", &[("compose.yaml", 4)]).await;
}

pub(crate) async fn tensorflow_spans_two_hosts() {
    frameworks("tensorflow", &[("multi-worker.yaml", 2)]).await;
}

pub(crate) async fn an_engine_that_stops_in_the_middle_of_a_job_is_told_of_and_the_job_goes_on_once_it_is_back()
 {
    let mut hosts = Hosts::start(&[1]).await;
    let scene = &hosts.scene;
    scene.cluster.announce("node-0", "Docker Engine");
    scene.script("echo generation $CONVOKE_GENERATION; [ $CONVOKE_GENERATION != 1 ] || exec sleep 1000", "");
    scene.convoke(&["up", "-d"]).run().await.expect_code(0);
    scene.cluster.wait_line(JOB, "generation 1").await;
    hosts.engines[0].stop().await;
    let told = async |name: &str| {
        let nodes = scene.convoke(&["nodes"]).run().await.expect_code(0).stdout;
        nodes.contains(name).then_some(nodes)
    };
    convoke_tests::eventually("the node's condition is told", async || told("DockerDown").await).await;
    hosts.engines[0].start().await;
    let job = scene.cluster.wait_state(JOB, v1::JobState::Succeeded).await;
    assert_eq!(job.generation, 2);
    let failure = job.last_failure.expect("why generation 1 ended");
    assert_eq!(failure.class(), v1::FailureClass::Infrastructure, "{}", failure.message);
    hosts.finish().await;
}

//! An entrypoint that ignores SIGTERM ends all the same, and so does one that is paused.

use std::time::{Duration, Instant};

use convoke_proto::v1;
use convoke_proto::v1::task_exit::Status;
use convoke_tests::{JOB, Scene, TORCH, docker};

/// How long the containers would go on by themselves: longer than any story waits.
const FOR_EVER: &str = "while true; do sleep 1000 & wait $!; done";

pub(crate) async fn a_stop_with_a_grace_kills_what_ignores_sigterm_when_it_is_over() {
    let scene = Scene::start(&[1]).await;
    // The job's own grace is longer than the story: only the one that the user asks for ends it in time.
    scene.script(&format!("trap '' TERM\necho deaf\n{FOR_EVER}"), "stop_grace_period: 10m");
    scene.convoke(&["up", "-d"]).run().await.expect_code(0);
    scene.cluster.wait_line(JOB, "deaf").await;
    let asked = Instant::now();
    scene.convoke(&["stop", JOB, "--grace", "1s"]).run().await.expect_code(0);
    assert!(asked.elapsed() >= Duration::from_secs(1), "the grace was not given");
    let job = scene.cluster.wait_state(JOB, v1::JobState::Stopped).await;
    let exit = job.replicas.first().and_then(|r| r.tasks.first()).and_then(|t| t.exit.clone());
    assert_eq!(exit.and_then(|exit| exit.status), Some(Status::Signal(9)));
    scene.cluster.finish().await;
}

pub(crate) async fn a_failing_gang_ends_though_a_rank_ignores_sigterm() {
    let scene = Scene::start(&[1, 1]).await;
    let (mut gate, volume) = scene.gate("fail");
    let script = format!(
        "if [ $NODE_RANK = 0 ]; then trap '' TERM; echo deaf; {FOR_EVER}; fi
         {}; exit 3",
        gate.wait()
    );
    scene.script(&script, &format!("volumes: [\"{volume}\"]"));
    let up = scene.convoke(&["up", "--nodes", "2"]).start();
    scene.cluster.wait_line(JOB, "deaf").await;
    gate.open();
    let up = up.end().await.expect_code(3);
    assert!(up.stderr.contains("rank 1 on node-1"), "{}", up.stderr);
    let job = scene.cluster.job(JOB).await;
    let failure = job.last_failure.expect("why it failed");
    assert_eq!(failure.exit.and_then(|exit| exit.status), Some(Status::Code(3)));
    scene.cluster.finish().await;
}

pub(crate) async fn a_paused_container_is_told_until_it_goes_on_and_can_be_stopped() {
    let scene = Scene::start(&[1]).await;
    scene.script(&format!("echo up\n{FOR_EVER}"), "");
    scene.convoke(&["up", "-d"]).run().await.expect_code(0);
    scene.cluster.wait_line(JOB, "up").await;
    let container = scene.container(0).await;
    let told =
        |job: &v1::Job| job.replicas.iter().flat_map(|r| &r.conditions).any(|c| c.name == "TaskPaused");
    docker(&["pause", &container]);
    scene.cluster.wait_for(JOB, "the pause", told).await;
    let ps = scene.convoke(&["ps"]).run().await.expect_code(0);
    assert!(ps.stdout.contains("paused on node node-0"), "{}", ps.stdout);
    let inspect = scene.convoke(&["inspect", JOB]).run().await.expect_code(0);
    assert!(inspect.stdout.contains("node-0: TaskPaused: "), "{}", inspect.stdout);
    docker(&["unpause", &container]);
    scene.cluster.wait_for(JOB, "the end of the pause", |job| !told(job)).await;
    docker(&["pause", &container]);
    scene.cluster.wait_for(JOB, "another pause", told).await;
    scene.convoke(&["stop", JOB]).run().await.expect_code(0);
    scene.cluster.wait_state(JOB, v1::JobState::Stopped).await;
    scene.cluster.finish().await;
}

pub(crate) async fn python_as_pid_1_ends_on_sigterm_and_without_init_when_its_grace_is_over() {
    let scene = Scene::start(&[1]).await;
    let stopped = async |keys: &str, args: &[&str]| {
        let program = "import time; print(\\\"ready\\\", flush=True); time.sleep(1000)";
        let command = format!("command: [\"python3\", \"-c\", \"{program}\"]");
        scene.compose(&format!("image: {TORCH}\nstop_grace_period: 10m\n{keys}{command}"));
        scene.convoke(&["up", "-d", "--no-ship-image"]).run().await.expect_code(0);
        scene.cluster.wait_line(JOB, "ready").await;
        scene.convoke(&[&["stop", JOB], args].concat()).run().await.expect_code(0);
        let job = scene.cluster.wait_state(JOB, v1::JobState::Stopped).await;
        let exit = job.replicas.first().and_then(|r| r.tasks.first()).and_then(|t| t.exit.clone());
        exit.and_then(|exit| exit.status)
    };
    // The kernel keeps signals without a handler from a PID 1, which Python is not under Docker's init.
    assert_eq!(stopped("", &[]).await, Some(Status::Signal(15)));
    assert_eq!(stopped("init: false\n", &["--grace", "1s"]).await, Some(Status::Signal(9)));
    scene.cluster.finish().await;
}

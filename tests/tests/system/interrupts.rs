//! Ctrl-C while jobs are being submitted: nothing that was accepted runs on unsaid, whatever was lost on
//! the way.

use std::fs;

use convoke_proto::v1;
use convoke_tests::{Cli, Finished, LocalCluster, RunningCli, Wire, eventually};
use rustix::process::Signal;

/// Two services of host processes; neither ends by itself.
async fn project() -> (LocalCluster, Wire) {
    let cluster = LocalCluster::start(&[2]).await;
    let service = |name: &str| format!("  {name}:\n    command: sh -c 'exec sleep 600'\n");
    let compose = format!("name: story\nservices:\n{}{}", service("first"), service("second"));
    fs::write(cluster.directory().join("compose.yaml"), compose).expect("it is writable");
    let wire = Wire::to(&cluster).await;
    (cluster, wire)
}

fn over(cluster: &LocalCluster, wire: &Wire, args: &[&str]) -> Cli {
    cluster.cli(args).variable("CONVOKE_COORDINATOR", &wire.url())
}

/// An `up` that has submitted `first` and does not hear that it was accepted, interrupted.
async fn interrupted(cluster: &LocalCluster, wire: &Wire, args: &[&str]) -> RunningCli {
    wire.hold_answers(true);
    let mut up = over(cluster, wire, args).start();
    let accepted = async || (!cluster.all_jobs().await.is_empty()).then_some(());
    eventually("the coordinator has accepted a job", accepted).await;
    up.signal(Signal::INT);
    up.said("interrupted: asking whether story-first was accepted").await;
    up
}

/// The one job that there is, and that `up` told of `words` and ended as Ctrl-C ends it.
async fn one_job(cluster: &LocalCluster, up: RunningCli, words: &[&str]) -> (v1::Job, Finished) {
    let up = up.end().await.expect_code(130);
    for word in words {
        assert!(up.stderr.contains(word), "no \"{word}\" in:\n{}", up.stderr);
    }
    let jobs = cluster.all_jobs().await;
    assert_eq!(jobs.len(), 1, "one submit is one job: {jobs:?}");
    (cluster.job("story-first").await, up)
}

#[tokio::test]
async fn an_attached_up_stops_what_was_accepted_though_the_answer_came_late() {
    let (cluster, wire) = project().await;
    let up = interrupted(&cluster, &wire, &["up"]).await;
    wire.hold_answers(false);
    let words = ["not submitted: story-second", "stopping story-first", "story-first: stopped"];
    let (job, _) = one_job(&cluster, up, &words).await;
    assert_eq!(job.state(), v1::JobState::Stopped);
    cluster.finish().await;
}

#[tokio::test]
async fn a_detached_up_names_what_was_accepted_and_how_to_stop_it() {
    let (cluster, wire) = project().await;
    let up = interrupted(&cluster, &wire, &["up", "-d"]).await;
    wire.hold_answers(false);
    let words =
        ["accepted and running: story-first", "not submitted: story-second", "`convoke stop story-first`"];
    let (job, up) = one_job(&cluster, up, &words).await;
    assert!(up.stderr.contains(&job.id), "{}", up.stderr);
    cluster.wait_state(&job.id, v1::JobState::Running).await;
    cluster.cli(&["stop", "story-first"]).run().await.expect_code(0);
    cluster.finish().await;
}

#[tokio::test]
async fn a_second_ctrl_c_leaves_at_once_and_says_what_is_not_known() {
    let (cluster, wire) = project().await;
    let up = interrupted(&cluster, &wire, &["up"]).await;
    up.signal(Signal::INT);
    let words =
        ["whether story-first was accepted is not known", "`convoke ps -a`", "`convoke stop story-first`"];
    one_job(&cluster, up, &words).await;
    cluster.cli(&["stop", "story-first"]).run().await.expect_code(0);
    cluster.finish().await;
}

#[tokio::test]
async fn before_anything_was_submitted_nothing_is_and_that_is_said() {
    let (cluster, wire) = project().await;
    let keys = "    image: example.invalid/none:1\n    volumes: [\"./data:/data:ro\"]\n";
    let compose = format!("name: story\nservices:\n  first:\n    command: \"true\"\n{keys}");
    fs::write(cluster.directory().join("compose.yaml"), compose).expect("it is writable");
    fs::create_dir(cluster.directory().join("data")).expect("it is writable");
    wire.hold_answers(true);
    let before = wire.sent();
    let up = over(&cluster, &wire, &["up", "--wait-for-nodes"]).start();
    // What it asks first, it asks before it ships.
    eventually("it asks the coordinator", async || (wire.sent() > before).then_some(())).await;
    up.signal(Signal::INT);
    let up = up.end().await.expect_code(130);
    assert!(up.stderr.contains("interrupted before anything was submitted"), "{}", up.stderr);
    assert!(cluster.all_jobs().await.is_empty(), "nothing was submitted");
    cluster.finish().await;
}

//! The command line as people and scripts use it.

use std::fs;

use convoke_proto::v1;
use convoke_tests::{Cli, LocalCluster, eventually, procfs};
use rustix::process::Signal;

/// Lays out a project of one service, `train`, that runs `script` with one rank on each of two nodes.
fn project(cluster: &LocalCluster, script: &str) {
    let compose = "name: story\nservices:\n  train:\n    command: sh train.sh\n    deploy:\n      replicas: 2\n      \
                   resources:\n        reservations:\n          devices:\n            - driver: cpu\n              \
                   count: 1\n              capabilities: [cpu]\n    x-convoke:\n      ranks: per-gpu\n";
    fs::write(cluster.directory().join("compose.yaml"), compose).expect("it is writable");
    fs::write(cluster.directory().join("train.sh"), script).expect("it is writable");
}

const TRAIN: &str = r#"echo "hello from rank $RANK"
echo '{"step": 1, "loss": 0.5}'
if [ $RANK = 0 ]; then
  mkdir "$CONVOKE_CHECKPOINT_DIR/.next"; echo w > "$CONVOKE_CHECKPOINT_DIR/.next/weights"
  mv "$CONVOKE_CHECKPOINT_DIR/.next" "$CONVOKE_CHECKPOINT_DIR/step-1"
fi
"#;

#[tokio::test]
async fn every_command_speaks_json_to_programs_and_plainly_to_people() {
    let cluster = LocalCluster::start(&[1, 1]).await;
    project(&cluster, TRAIN);
    let up = cluster.cli(&["up", "-o", "json"]).run().await.expect_code(0);
    let records = up.json_lines();
    let last = records.iter().filter_map(|record| record.get("job")).next_back().expect("job records");
    assert_eq!(last["state"], "succeeded");
    assert_eq!(records.iter().filter(|record| record.get("log").is_some()).count(), 4);
    assert!(records.iter().any(|record| record["metric"]["values"]["loss"] == 0.5));
    let id = last["id"].as_str().expect("an id").to_owned();

    let json = async |args: &[&str]| {
        let args: Vec<_> = args.iter().copied().chain(["-o", "json"]).collect();
        cluster.cli(&args).run().await.expect_code(0)
    };
    assert_eq!(json(&["ps", "-a"]).await.json()["jobs"][0]["id"], id);
    assert_eq!(json(&["ps"]).await.json()["jobs"].as_array().map(Vec::len), Some(0));
    assert_eq!(json(&["inspect", "story-train"]).await.json()["world_size"], 2);
    assert_eq!(json(&["nodes"]).await.json()["nodes"][1]["info"]["id"], "node-1");
    assert_eq!(json(&["wait", "story-train"]).await.json()["jobs"][0]["state"], "succeeded");
    assert_eq!(json(&["stop", "story-train"]).await.json()["jobs"][0]["state"], "succeeded");
    assert_eq!(
        json(&["checkpoint", "ls", "story-train"]).await.json()["checkpoints"][0]["state"],
        "complete"
    );
    assert_eq!(json(&["checkpoint", "pull", "story-train", "got"]).await.json()["checkpoint"]["bytes"], 2);
    assert_eq!(fs::read_to_string(cluster.directory().join("got/weights")).expect("it was pulled"), "w\n");
    assert_eq!(json(&["up", "--dry-run"]).await.json()["plans"][0]["plan"]["world_size"], 2);
    assert!(json(&["config"]).await.json()["services"]["train"].is_object());
    json(&["down"]).await.json();
    let logs = json(&["logs", "story-train", "--rank", "1"]).await.json_lines();
    assert_eq!(logs[0]["text"], "hello from rank 1");
    assert!(logs.iter().all(|line| line["rank"] == 1 && line["node"] == "node-1"));
    assert_eq!(json(&["metrics", "story-train"]).await.json_lines()[0]["values"]["loss"], 0.5);
    let events = json(&["events"]).await.json_lines();
    assert!(events.iter().any(|event| event["kind"] == "JobSucceeded" && event["job_id"] == id));
    assert_eq!(json(&["restart", "story-train"]).await.json()["jobs"][0]["id"], id);
    json(&["wait", "story-train"]).await;
    cluster.finish().await;
}

#[tokio::test]
async fn people_get_tables_and_sentences() {
    let cluster = LocalCluster::start(&[1, 1]).await;
    project(&cluster, TRAIN);
    let says = async |args: &[&str], words: &[&str]| {
        let done = cluster.cli(args).run().await.expect_code(0);
        for word in words {
            let said = format!("{}{}", done.stdout, done.stderr);
            assert!(said.contains(word), "`convoke {}` does not say \"{word}\":\n{said}", args.join(" "));
        }
        assert!(!done.stdout.contains('\u{1b}'), "colours go to terminals only:\n{}", done.stdout);
    };
    says(&["up", "--dry-run"], &["2 ranks on 2 nodes", "node-0", "node-1"]).await;
    says(&["up"], &["hello from rank 0", "hello from rank 1", "node-1", "succeeded"]).await;
    says(&["ps", "-a"], &["NAME", "story-train", "succeeded"]).await;
    says(&["ps"], &["no jobs"]).await;
    says(&["inspect", "story-train"], &["State", "succeeded", "node-0", "exit code 0"]).await;
    says(&["nodes"], &["NAME", "node-0", "ready", "0/1 cpu slots"]).await;
    says(&["logs", "story-train"], &["hello from rank 0", "hello from rank 1"]).await;
    says(&["logs", "story-train", "-f", "--tail", "1", "--rank", "0"], &["loss"]).await;
    says(&["metrics", "story-train"], &["LOSS", "0.5"]).await;
    says(&["checkpoint", "ls", "story-train"], &["STEP", "complete"]).await;
    says(&["events", "--job", "story-train"], &["JobSubmitted", "JobSucceeded"]).await;
    says(&["config"], &["services:", "train:"]).await;
    says(&["down"], &["no running jobs"]).await;
    cluster.finish().await;
}

#[tokio::test]
async fn a_dry_run_leaves_each_service_the_places_of_those_before_it_that_still_run() {
    let cluster = LocalCluster::start(&[1, 1]).await;
    let after = |condition: &str| format!("depends_on: {{first: {{condition: {condition}}}}}");
    let service = |name: &str, keys: &str| format!("  {name}:\n    command: \"true\"\n    {keys}\n");
    let services = [
        service("a", &after("service_completed_successfully")),
        service("b", &after("service_started")),
        service("beside", "init: true"),
        service("first", "init: true"),
    ];
    let file = format!("name: story\nservices:\n{}", services.concat());
    fs::write(cluster.directory().join("compose.yaml"), file).expect("it is writable");
    let dry = cluster.cli(&["up", "--dry-run", "-o", "json"]).run().await.expect_code(0).json();
    let plan = |n: usize| {
        let node = dry["plans"][n]["plan"]["replicas"][0]["node"].as_str().unwrap_or_default().to_owned();
        (dry["plans"][n]["name"].as_str().unwrap_or_default().to_owned(), node)
    };
    let expected =
        [("story-beside", "node-0"), ("story-first", "node-1"), ("story-a", "node-1"), ("story-b", "")];
    assert_eq!([0, 1, 2, 3].map(plan), expected.map(|(name, node)| (name.to_owned(), node.to_owned())));
    let reason = dry["plans"][3]["plan"]["reason"].to_string();
    assert!(reason.contains("node-0 has 0") && reason.contains("node-1 has 0"), "{reason}");
    cluster.finish().await;
}

#[tokio::test]
async fn up_and_wait_end_with_the_failed_tasks_code() {
    let cluster = LocalCluster::start(&[1, 1]).await;
    project(&cluster, "if [ $RANK = 1 ]; then exit 3; fi; exec sleep 600");
    let up = cluster.cli(&["up"]).run().await.expect_code(3);
    for word in ["rank 1", "node-1", "3"] {
        assert!(up.stderr.contains(word), "no \"{word}\" in:\n{}", up.stderr);
    }
    let wait = cluster.cli(&["wait", "story-train", "-o", "json"]).run().await.expect_code(3);
    assert_eq!(wait.json_error()["reason"], "JOB_FAILED");
    cluster.finish().await;
}

#[tokio::test]
async fn ctrl_c_in_an_attached_up_stops_the_job() {
    let cluster = LocalCluster::start(&[1, 1]).await;
    project(&cluster, "trap 'echo stopping rank $RANK; exit 0' TERM; sleep 600 & echo ready; wait");
    let mut up = cluster.cli(&["up"]).start();
    up.line("ready").await;
    up.signal(Signal::INT);
    let done = up.end().await.expect_code(130);
    assert!(done.stdout.contains("stopping rank"), "{}", done.stdout);
    let job = cluster.job("story-train").await;
    assert_eq!(job.state(), v1::JobState::Stopped);
    assert_eq!(procfs::of_job(&job.id), []);
    cluster.finish().await;
}

#[tokio::test]
async fn a_detached_job_is_found_followed_and_brought_down() {
    let cluster = LocalCluster::start(&[1, 1]).await;
    project(&cluster, "echo ready; exec sleep 600");
    let up = cluster.cli(&["up", "-d", "-o", "json"]).run().await.expect_code(0);
    let id = up.json()["jobs"][0]["id"].as_str().expect("an id").to_owned();
    cluster.wait_state(&id, v1::JobState::Running).await;
    let timeout = cluster.cli(&["wait", "story-train", "--timeout", "50ms", "-o", "json"]).run().await;
    assert_eq!(timeout.expect_code(124).json_error()["reason"], "TIMEOUT");
    let mut logs = cluster.cli(&["logs", "-f", "story-train"]).start();
    logs.line("ready").await;
    let mut events = cluster.cli(&["events", "-f"]).start();
    events.line("JobRunning").await;
    cluster.cli(&["down"]).run().await.expect_code(0);
    assert_eq!(cluster.job(&id).await.state(), v1::JobState::Stopped);
    logs.end().await.expect_code(0);
    events.line("JobStopped").await;
    events.signal(Signal::INT);
    events.end().await.expect_code(130);
    cluster.finish().await;
}

#[tokio::test]
async fn a_second_up_is_refused_with_advice_and_replace_goes_on_from_the_checkpoint() {
    let cluster = LocalCluster::start(&[1, 1]).await;
    let wait = r#"if [ -n "$CONVOKE_RESUME_FROM" ]; then echo "went on from $(cat "$CONVOKE_RESUME_FROM/weights")"; exit 0; fi"#;
    project(&cluster, &format!("{wait}\n{TRAIN}\nexec sleep 600\n"));
    let first = cluster.cli(&["up", "-d", "-o", "json"]).run().await.expect_code(0).json();
    let id = first["jobs"][0]["id"].as_str().expect("an id").to_owned();
    cluster.wait_for(&id, "it has a checkpoint", |job| job.latest_checkpoint.is_some()).await;
    let second = cluster.cli(&["up"]).run().await.expect_code(4);
    for advice in ["--replace", "--name"] {
        assert!(second.stderr.contains(advice), "no {advice} in:\n{}", second.stderr);
    }
    let replaced = cluster.cli(&["up", "--replace"]).run().await.expect_code(0);
    assert!(replaced.stdout.contains("went on from w"), "{}", replaced.stdout);
    assert_eq!(cluster.job(&id).await.state(), v1::JobState::Stopped);
    cluster.finish().await;
}

#[tokio::test]
async fn an_attached_up_outlives_the_coordinator() {
    let mut cluster = LocalCluster::start(&[1, 1]).await;
    let mut gate = cluster.gate("middle");
    project(&cluster, &format!("echo before; {}; echo after", gate.wait()));
    let mut up = cluster.cli(&["up"]).start();
    up.line("before").await;
    cluster.kill_coordinator();
    cluster.start_coordinator().await;
    gate.open();
    let done = up.end().await.expect_code(0);
    assert_eq!(done.stdout.matches("before").count(), 2, "{}", done.stdout);
    assert_eq!(done.stdout.matches("after").count(), 2, "{}", done.stdout);
    assert!(done.stderr.contains("is back"), "{}", done.stderr);
    cluster.finish().await;
}

#[tokio::test]
async fn without_a_coordinator_a_command_says_how_to_get_one_and_ends_with_3() {
    let nobody = || Cli::new(&["ps"]).variable("CONVOKE_COORDINATOR", "http://127.0.0.1:1");
    let done = nobody().run().await.expect_code(3);
    for word in ["http://127.0.0.1:1", "convoke serve", "--coordinator"] {
        assert!(done.stderr.contains(word), "no \"{word}\" in:\n{}", done.stderr);
    }
    let json = nobody().variable("CONVOKE_OUTPUT", "json").run().await.expect_code(3);
    assert_eq!(json.json_error()["reason"], "COORDINATOR_UNREACHABLE");
}

#[tokio::test]
async fn wrong_usage_ends_with_2_and_says_what_is_wrong() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("compose.yaml"), "services:\n  train:\n    comand: x\n")
        .expect("writable");
    let run = async |args: &[&str]| Cli::new(args).directory(directory.path()).run().await.expect_code(2);
    let typo = run(&["config"]).await;
    for word in ["compose.yaml", ":3", "comand", "command"] {
        assert!(typo.stderr.contains(word), "no \"{word}\" in:\n{}", typo.stderr);
    }
    assert_eq!(run(&["config", "-o", "json"]).await.json_error()["reason"], "JOB_FILE");
    assert!(run(&["uup"]).await.stderr.contains("up"));
    assert!(run(&["rm", "train"]).await.stderr.contains("`convoke stop JOB`"));
    assert!(run(&["down", "-v"]).await.stderr.contains("docker volume rm"));
    assert_eq!(run(&["ps", "--nope", "-o", "json"]).await.json_error()["reason"], "USAGE");
    assert!(run(&["up", "-f", "missing.yaml"]).await.stderr.contains("missing.yaml"));
}

#[tokio::test]
async fn config_and_completions_need_no_coordinator() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let compose = "services:\n  train:\n    command: echo ${WHAT:-nothing}\n";
    fs::write(directory.path().join("compose.yaml"), compose).expect("it is writable");
    let config = Cli::new(&["config"]).directory(directory.path()).variable("WHAT", "hello").run().await;
    assert!(config.expect_code(0).stdout.contains("hello"));
    for shell in ["bash", "zsh", "fish"] {
        let script = Cli::new(&["completions", shell]).run().await.expect_code(0).stdout;
        assert!(script.contains("convoke") && script.contains("checkpoint"), "{shell}");
    }
    let help = Cli::new(&["--help"]).run().await.expect_code(0).stdout;
    assert!(help.contains("Exit codes") && help.contains("demo"));
    assert!(Cli::new(&["--version"]).run().await.expect_code(0).stdout.starts_with("convoke "));
}

#[tokio::test]
async fn a_job_that_never_fits_is_refused_with_what_to_do() {
    let cluster = LocalCluster::start(&[1]).await;
    project(&cluster, "true");
    let refused = cluster.cli(&["up"]).run().await.expect_code(4);
    for word in ["needs 2 nodes", "--nodes", "--wait-for-nodes"] {
        assert!(refused.stderr.contains(word), "no \"{word}\" in:\n{}", refused.stderr);
    }
    cluster.cli(&["up", "--nodes", "1"]).run().await.expect_code(0);
    let unknown = cluster.cli(&["inspect", "nobody", "-o", "json"]).run().await.expect_code(4);
    assert_eq!(unknown.json_error()["reason"], "UNKNOWN_JOB");
    let gone = async || cluster.nodes().await.iter().all(|n| n.in_use.is_empty()).then_some(());
    eventually("the node is free", gone).await;
    cluster.finish().await;
}

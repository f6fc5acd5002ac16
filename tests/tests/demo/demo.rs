//! `convoke demo`, left alone and not.

use convoke_tests::process::signal_pid;
use convoke_tests::procfs::{self, Running};
use convoke_tests::{Cli, Finished, RunningCli, eventually};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// In a temporary directory that every process of the demo has in its environment.
struct Demo {
    directory: TempDir,
    cli: RunningCli,
}

fn start(args: &[&str]) -> Demo {
    let directory = tempfile::Builder::new().prefix("convoke-demo-").tempdir().expect("a directory");
    let place = directory.path().display().to_string();
    let args: Vec<_> = ["demo", "-o", "json"].iter().chain(args).copied().collect();
    Demo { cli: Cli::new(&args).variable("TMPDIR", &place).directory(directory.path()).start(), directory }
}

impl Demo {
    /// Waits until the job runs and has a checkpoint: the middle.
    async fn middle(&mut self) {
        self.cli.line(r#""latest_checkpoint":{"#).await;
    }

    fn processes(&self) -> Vec<Running> {
        procfs::mentioning(&self.directory.path().display().to_string())
    }

    fn kill9(&self, is_it: impl Fn(&str) -> bool) {
        let found: Vec<_> = self.processes().into_iter().filter(|p| is_it(&p.command)).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        signal_pid(found[0].pid, Signal::KILL);
    }

    async fn end(self) -> Finished {
        let Self { directory, cli } = self;
        let done = cli.end().await;
        let left = procfs::mentioning(&directory.path().display().to_string());
        assert!(left.is_empty(), "still there: {left:?}");
        done
    }

    /// Its end, which must be what the demo promises.
    async fn good_end(self, generations: u64) -> Value {
        let done = self.end().await.expect_code(0);
        let summary = done.json_lines().pop().expect("a last line");
        assert_eq!(summary["state"], "succeeded", "{summary}");
        assert_eq!((&summary["nodes"], &summary["world_size"]), (&2.into(), &4.into()), "{summary}");
        assert_eq!(summary["generations"], generations, "{summary}");
        let accuracy = summary["test_accuracy"].as_f64().expect("a number");
        assert!(accuracy >= 0.97, "{summary}");
        let checkpoints = summary["checkpoints"].as_array().expect("a list");
        let complete = |c: &Value| c["state"] == "complete" && c["bytes"].as_u64() > Some(1_000_000);
        assert!(!checkpoints.is_empty() && checkpoints.iter().all(complete), "{summary}");
        assert!(summary["samples_per_second"].as_f64() > Some(0.0), "{summary}");
        assert!(summary["seconds"].as_f64() > Some(0.0), "{summary}");
        summary
    }
}

#[tokio::test]
async fn the_demo_trains_to_97_percent_in_one_generation() {
    let _alone = crate::alone().await;
    start(&[]).good_end(1).await;
}

#[tokio::test]
async fn the_demo_reaches_the_same_accuracy_with_rank_2_killed_in_the_middle() {
    let _alone = crate::alone().await;
    start(&["--kill-rank", "2"]).good_end(2).await;
}

#[tokio::test]
async fn the_demo_outlives_its_coordinator() {
    let _alone = crate::alone().await;
    let mut demo = start(&[]);
    demo.middle().await;
    demo.kill9(|command| command.contains("convoke serve "));
    demo.good_end(1).await;
}

#[tokio::test]
async fn the_demo_outlives_an_agent() {
    let _alone = crate::alone().await;
    let mut demo = start(&[]);
    demo.middle().await;
    demo.kill9(|command| {
        command.contains("convoke-agent --coordinator") && command.contains("--node node-b")
    });
    demo.good_end(1).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_demo_that_is_killed() {
    let _alone = crate::alone().await;
    let mut demo = start(&[]);
    demo.middle().await;
    assert!(demo.processes().len() >= 11, "coordinator, agents, shims and ranks: {:?}", demo.processes());
    demo.cli.signal(Signal::KILL);
    eventually("nothing is left", async || demo.processes().is_empty().then_some(())).await;
    assert_eq!(demo.end().await.status.code(), None);
}

#[tokio::test]
async fn ctrl_c_takes_the_demo_down() {
    let _alone = crate::alone().await;
    let mut demo = start(&[]);
    demo.middle().await;
    demo.cli.signal(Signal::INT);
    let directory = demo.directory.path().to_owned();
    let Demo { cli, directory: _keep } = demo;
    cli.end().await.expect_code(130);
    assert_eq!(procfs::mentioning(&directory.display().to_string()), []);
    let files = std::fs::read_dir(&directory).expect("it is there").count();
    assert_eq!(files, 0, "files are left in {}", directory.display());
}

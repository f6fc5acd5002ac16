//! Files that come back from jobs, brought by an agent that a story plays.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use convoke_proto::v1;
use convoke_tests::{Cli, LocalCluster, ScriptedAgent, eventually, hello};

struct Story {
    cluster: LocalCluster,
    agent: ScriptedAgent,
    dir: PathBuf,
}

impl Story {
    /// A node that runs containers, and a project whose one service mounts `./out` and `./logs`.
    async fn start(extra: &str) -> Self {
        let cluster = LocalCluster::start(&[]).await;
        let mut hello = hello("scripted", "one", 1);
        if let Some(node) = &mut hello.node {
            node.runtimes.push(v1::RuntimeKind::Docker.into());
        }
        let agent = ScriptedAgent::connect(&cluster, hello).await.expect("a new name is welcome");
        let dir = cluster.directory().join("p");
        fs::create_dir_all(dir.join("out")).expect("it is writable");
        let compose = format!(
            "services:\n  train:\n    image: example.invalid/none:1\n    command: x\n    volumes:\n      \
             - ./out:/out\n      - ./logs:/logs\n      - ./fixed:/fixed:ro\n{extra}"
        );
        fs::write(dir.join("compose.yaml"), compose).expect("it is writable");
        Self { cluster, agent, dir }
    }

    fn cli(&self, args: &[&str]) -> Cli {
        self.cluster.cli(args).variable("DOCKER_HOST", "unix:///nowhere/docker.sock").directory(&self.dir)
    }

    fn write(&self, path: &str, content: &str) {
        fs::write(self.dir.join(path), content).expect("it is writable");
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.dir.join(path)).ok()
    }

    async fn there(&self, path: &str, content: &str) {
        let what = format!("{path} holds {content:?}");
        eventually(&what, async || self.read(path).filter(|found| found == content)).await;
    }
}

#[tokio::test]
async fn an_attached_up_writes_files_as_they_are_finished_and_ends_when_the_last_is_there() {
    let mut story = Story::start("").await;
    story.write("out/model.pt", "old");
    let up = story.cli(&["up"]).start();
    let replica = story.agent.run().await;
    story.agent.bring(&replica, "./out", &[("model.pt", "epoch 1"), ("runs/1/log", "lines")]).await;
    story.there("out/model.pt", "epoch 1").await;
    story.there("out/runs/1/log", "lines").await;
    let mode = fs::metadata(story.dir.join("out/model.pt")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    story.agent.bring(&replica, "./out", &[("model.pt", "epoch 2")]).await;
    story.there("out/model.pt", "epoch 2").await;
    story.agent.bring(&replica, "./logs", &[("last", "written at the very end")]).await;
    story.agent.bring(&replica, "./fixed", &[("x", "nobody wants this")]).await;
    story.agent.finish(&replica).await;
    let done = up.end().await.expect_code(0);
    assert_eq!(story.read("logs/last").as_deref(), Some("written at the very end"));
    assert_eq!(story.read("fixed/x"), None);
    assert!(done.stderr.contains("./out/model.pt came back"), "{}", done.stderr);
    assert!(done.stderr.contains("3 files came back into ./logs, ./out (35 B)"), "{}", done.stderr);
    story.cluster.finish().await;
}

#[tokio::test]
async fn what_the_user_changed_meanwhile_stays_and_nothing_leaves_the_directory() {
    let mut story = Story::start("").await;
    story.write("out/notes.txt", "at submit");
    let up = story.cli(&["up", "-o", "json"]).start();
    let replica = story.agent.run().await;
    story.write("out/notes.txt", "mine");
    let outside = story.cluster.directory().join("outside");
    fs::create_dir(&outside).expect("it is writable");
    symlink(&outside, story.dir.join("out/way-out")).expect("it is writable");
    let files = [("notes.txt", "theirs"), ("way-out/x", "escaped"), ("good", "fine")];
    story.agent.bring(&replica, "./out", &files).await;
    story.agent.finish(&replica).await;
    let done = up.end().await.expect_code(1);
    assert_eq!(story.read("out/notes.txt").as_deref(), Some("mine"));
    assert_eq!(story.read("out/notes.txt.from-p-train").as_deref(), Some("theirs"));
    assert_eq!(story.read("out/good").as_deref(), Some("fine"));
    assert_eq!(fs::read_dir(&outside).expect("it is there").count(), 0);
    assert_eq!(done.json_error()["reason"], "FILES_NOT_WRITTEN");
    let files: Vec<_> = done.json_lines().into_iter().filter_map(|line| line.get("file").cloned()).collect();
    let outcome = |name: &str| {
        let file = files.iter().find(|f| f["path"].as_str().is_some_and(|p| p.ends_with(name)));
        file.unwrap_or_else(|| panic!("no {name} in {files:?}"))["outcome"].clone()
    };
    assert_eq!(outcome("out/notes.txt"), "beside");
    assert_eq!(outcome("way-out/x"), "failed");
    assert_eq!(outcome("out/good"), "written");
    story.cluster.finish().await;
}

#[tokio::test]
async fn pull_brings_what_is_not_here_yet_also_elsewhere_and_knows_what_up_wrote() {
    let mut story = Story::start("").await;
    story.write("out/kept", "as it was");
    let up = story.cli(&["up"]).start();
    let replica = story.agent.run().await;
    story.agent.bring(&replica, "./out", &[("model.pt", "epoch 1")]).await;
    story.there("out/model.pt", "epoch 1").await;
    // The terminal goes away; the job goes on.
    up.signal(rustix::process::Signal::HUP);
    up.end().await.expect_code(130);
    story.agent.bring(&replica, "./out", &[("model.pt", "epoch 2"), ("kept", "changed by the job")]).await;
    let pulled = story.cli(&["pull", "train"]).run().await.expect_code(0);
    assert!(pulled.stdout.contains("2 files came back into ./out (25 B)"), "{}", pulled.stdout);
    assert_eq!(story.read("out/model.pt").as_deref(), Some("epoch 2"));
    assert_eq!(story.read("out/kept").as_deref(), Some("changed by the job"));
    let again = story.cli(&["pull", "train"]).run().await.expect_code(0);
    assert!(again.stdout.contains("nothing new came back from p-train; 2 here already"), "{}", again.stdout);

    let elsewhere = story.cli(&["pull", "train", "got", "-o", "json", "--follow"]).start();
    story.there("got/out/model.pt", "epoch 2").await;
    story.agent.bring(&replica, "./logs", &[("a", "late")]).await;
    story.there("got/logs/a", "late").await;
    story.agent.finish(&replica).await;
    let records = elsewhere.end().await.expect_code(0).json_lines();
    let last = &records.last().expect("records")["pulled"];
    assert_eq!((&last["files"], &last["bytes"]), (&3.into(), &29.into()));
    assert!(Path::new(&story.dir).join("got/out/kept").is_file());
    story.cluster.finish().await;
}

#[tokio::test]
async fn a_file_that_was_not_sent_is_replaced_if_nobody_touched_it_since_the_submit() {
    let mut story = Story::start("").await;
    story.write(".convokeignore", "*.pt\n");
    story.write("out/old.pt", "of an earlier run");
    story.write("out/mine.pt", "of an earlier run");
    let lain = || fs::metadata(story.dir.join("out/mine.pt")).and_then(|m| m.modified());
    eventually("the files have lain there for a while", async || {
        lain().ok()?.elapsed().is_ok_and(|age| age > Duration::from_secs(2)).then_some(())
    })
    .await;
    story.cli(&["up", "-d"]).run().await.expect_code(0);
    story.write("out/mine.pt", "edited since");
    let replica = story.agent.run().await;
    story.agent.bring(&replica, "./out", &[("old.pt", "new"), ("mine.pt", "new")]).await;
    let pulled = story.cli(&["pull", "train"]).run().await.expect_code(0);
    assert!(pulled.stderr.contains("./out/mine.pt was changed here"), "{}", pulled.stderr);
    assert_eq!(story.read("out/old.pt").as_deref(), Some("new"));
    assert_eq!(story.read("out/mine.pt").as_deref(), Some("edited since"));
    story.cluster.finish().await;
}

#[tokio::test]
async fn with_collect_all_each_nodes_files_lie_in_a_directory_of_their_own() {
    let mut story = Story::start("    x-convoke:\n      collect: all\n").await;
    let up = story.cli(&["up"]).start();
    let replica = story.agent.run().await;
    story.agent.bring(&replica, "./out", &[("metrics.csv", "1,2")]).await;
    story.agent.finish(&replica).await;
    up.end().await.expect_code(0);
    assert_eq!(story.read("out/node-0/metrics.csv").as_deref(), Some("1,2"));
    assert_eq!(story.read("out/metrics.csv"), None);
    story.cluster.finish().await;
}

#[tokio::test]
async fn a_job_submitted_from_another_machine_is_pulled_into_a_directory_that_is_named() {
    let mut story = Story::start("").await;
    story.cli(&["up", "-d"]).run().await.expect_code(0);
    let replica = story.agent.run().await;
    story.agent.bring(&replica, "./out", &[("model.pt", "weights")]).await;
    let here = story.cluster.directory().join("laptop");
    fs::create_dir(&here).expect("it is writable");
    fs::rename(&story.dir, story.cluster.directory().join("moved")).expect("it can move");
    let lost = story.cluster.cli(&["pull", "train"]).run().await.expect_code(2);
    assert!(lost.stderr.contains("is not on this machine"), "{}", lost.stderr);
    assert!(lost.stderr.contains("convoke pull train DIR"), "{}", lost.stderr);
    story.cluster.cli(&["pull", "train", "."]).directory(&here).run().await.expect_code(0);
    assert_eq!(fs::read_to_string(here.join("out/model.pt")).expect("it came"), "weights");
    story.cluster.finish().await;
}

//! Files that travel: from the submitter's directory into containers, and back.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use convoke_proto::v1;
use convoke_tests::procfs::mounted_below;
use convoke_tests::{ClusterOptions, JOB, Scene, eventually};

const VOLUMES: &str = "volumes: [\"./data:/data\", \"./out:/out\"]";

/// A project that runs `script` on so many nodes; `data/in` holds `original`.
async fn scene(nodes: usize, script: &str, keys: &str) -> Scene {
    let scene = Scene::start(&vec![1; nodes]).await;
    scene.script(script, keys);
    scene.write("data/in", "original");
    scene
}

pub(crate) async fn what_rank_zero_writes_is_there_when_up_returns_and_the_rest_is_untouched() {
    let script = "set -e
        test \"$(cat /data/in)\" = original
        ! echo x 2>/dev/null > /fixed/new
        mkdir -p /out/deep; echo weights-$RANK > /out/deep/$RANK.pt
        echo changed > /data/in; rm /data/unwanted; ln -s in /data/link";
    let volumes = "volumes: [\"./data:/data\", \"./out:/out\", \"./fixed:/fixed:ro\"]";
    let scene = scene(2, script, volumes).await;
    scene.cluster.announce("node-0", "OddFiles");
    scene.write("data/unwanted", "kept");
    scene.write("fixed/old", "old");
    let up = scene.convoke(&["up", "--nodes", "2"]).run().await.expect_code(0);
    assert!(up.stderr.contains("2 files came back"), "{}", up.stderr);
    assert!(up.stderr.contains("does not come back: ./data/link"), "{}", up.stderr);
    assert_eq!(scene.read("out/deep/0.pt").as_deref(), Some("weights-0\n"));
    assert_eq!(scene.read("out/deep/1.pt"), None, "only node rank 0's come back");
    assert_eq!(scene.read("data/in").as_deref(), Some("changed\n"));
    assert_eq!(scene.read("data/unwanted").as_deref(), Some("kept"), "deletions do not travel");
    fs::symlink_metadata(scene.project.join("data/link")).expect_err("links do not travel back");
    scene.cluster.finish().await;
}

pub(crate) async fn a_later_generation_finds_what_an_earlier_one_left() {
    let script = "
        if [ -e /out/ckpt ]; then cat /out/ckpt /data/in > /out/resumed; exit 0; fi
        echo \"of rank $RANK\" > /out/ckpt; echo changed > /data/in; exit 7";
    let keys = format!("{VOLUMES}\ndeploy:\n  restart_policy: {{condition: on-failure, max_attempts: 1}}");
    let scene = scene(2, script, &keys).await;
    scene.convoke(&["up", "--nodes", "2"]).run().await.expect_code(0);
    let resumed = scene.read("out/resumed");
    assert_eq!(resumed.as_deref(), Some("of rank 0\nchanged\n"), "rank 1 found it, too, or it had failed");
    scene.cluster.finish().await;
}

/// A task that has written a file and writes another once it finds `go`, and the directory where the node has them.
async fn between_two_files() -> (Scene, PathBuf) {
    let script = "echo before > /out/before
        until [ -e /out/go ]; do sleep 0.1; done
        echo after > /out/after";
    let scene = scene(1, script, &format!("{VOLUMES}\ninit: true")).await;
    scene.convoke(&["up", "-d"]).run().await.expect_code(0);
    let directory = scene.cluster.directory().to_owned();
    let out = eventually("the task to write below an overlay", async || {
        mounted_below(&directory).into_iter().find(|point| point.join("before").exists())
    })
    .await;
    scene.cluster.wait_state(JOB, v1::JobState::Running).await;
    (scene, out)
}

/// That both files come back.
async fn both_come_back(scene: Scene) {
    scene.cluster.wait_state(JOB, v1::JobState::Succeeded).await;
    scene.convoke(&["pull", JOB]).run().await.expect_code(0);
    assert_eq!(scene.read("out/before").as_deref(), Some("before\n"));
    assert_eq!(scene.read("out/after").as_deref(), Some("after\n"));
    scene.cluster.finish().await;
}

pub(crate) async fn what_is_written_while_the_agent_is_dead_comes_back() {
    let (mut scene, out) = between_two_files().await;
    scene.cluster.kill_agent(0);
    fs::write(out.join("go"), "").expect("the overlay outlives the agent");
    eventually("the task to write on", async || out.join("after").exists().then_some(())).await;
    scene.cluster.start_agent(0);
    both_come_back(scene).await;
}

pub(crate) async fn what_is_written_comes_back_though_the_agent_has_lost_its_record_of_the_job() {
    let (mut scene, out) = between_two_files().await;
    scene.cluster.announce("node-0", "it has no record");
    scene.cluster.kill_agent(0);
    let replica =
        out.ancestors().find(|above| above.join("record.json").exists()).expect("its replica's directory");
    let record = replica.join("record.json");
    fs::remove_file(&record).expect("it is there");
    scene.cluster.start_agent(0);
    eventually("a new record", async || record.exists().then_some(())).await;
    fs::write(out.join("go"), "").expect("the overlay is still there");
    both_come_back(scene).await;
}

pub(crate) async fn what_a_job_leaves_while_the_coordinator_is_away_is_pulled_when_it_is_back() {
    let mut options = ClusterOptions::containers(&[1]);
    // It would be told at once, if the coordinator's absence counted.
    options.agent_args = vec!["--files-patience=0s".to_owned()];
    let mut scene = Scene::start_with(options).await;
    scene.cluster.announce("node-0", "not with the coordinator yet");
    let script = "until [ -e /out/go ]; do sleep 0.1; done; echo last > /out/last";
    scene.script(script, &format!("{VOLUMES}\ninit: true"));
    scene.write("data/in", "original");
    scene.convoke(&["up", "-d"]).run().await.expect_code(0);
    scene.cluster.wait_state(JOB, v1::JobState::Running).await;
    let directory = scene.cluster.directory().to_owned();
    let point = mounted_below(&directory).into_iter().find(|point| !point.join("in").exists());
    let out = point.expect("an overlay of ./out");
    scene.cluster.kill_coordinator();
    fs::write(out.join("go"), "").expect("the overlay is there");
    eventually("the job's last file", async || out.join("last").exists().then_some(())).await;
    scene.cluster.start_coordinator().await;
    scene.convoke(&["pull", "--follow", JOB]).run().await.expect_code(0);
    assert_eq!(scene.read("out/last").as_deref(), Some("last\n"));
    scene.cluster.wait_state(JOB, v1::JobState::Succeeded).await;
    scene.cluster.finish().await;
}

pub(crate) async fn a_user_that_is_not_root_can_write_to_its_own_directory() {
    let script = "set -e
        test \"$(id -u)\" = 1234
        echo new > /out/new; echo changed > /data/in; cat /data/secret > /out/copy";
    let scene = scene(1, script, &format!("user: \"1234:1234\"\n{VOLUMES}")).await;
    scene.write("data/secret", "for its owner alone");
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(scene.project.join("data/secret"), mode).expect("it is the test's");
    scene.convoke(&["up"]).run().await.expect_code(0);
    assert_eq!(scene.read("out/new").as_deref(), Some("new\n"));
    assert_eq!(scene.read("out/copy").as_deref(), Some("for its owner alone"));
    scene.cluster.finish().await;
}

pub(crate) async fn a_directory_is_mounted_in_a_read_only_one_that_was_shipped_without_it() {
    let script = "test ! -e /w/deep/out/old.pt || exit 3; cat /w/data/in > /w/deep/out/new.pt";
    let scene = scene(1, script, "volumes: [\".:/w:ro\", \"./deep/out:/w/deep/out\"]").await;
    scene.write(".convokeignore", "deep\n*.pt\n");
    scene.write("deep/out/old.pt", "not shipped");
    scene.convoke(&["up"]).run().await.expect_code(0);
    assert_eq!(scene.read("deep/out/new.pt").as_deref(), Some("original"));
    scene.cluster.finish().await;
}

pub(crate) async fn secrets_and_configs_are_where_compose_puts_them() {
    let script = "cat /run/secrets/token /etc/app.conf /other > /out/all";
    let keys =
        format!("{VOLUMES}\nsecrets: [token]\nconfigs: [{{source: app, target: /etc/app.conf}}, other]");
    let scene = scene(1, script, &keys).await;
    for (file, content) in [("token", "hush\n"), ("app", "x: 1\n"), ("other", "y: 2\n")] {
        scene.write(file, content);
    }
    let text = scene.read("docker-compose.yml").expect("it was written")
        + "secrets: {token: {file: ./token}}\nconfigs: {app: {file: ./app}, other: {file: ./other}}\n";
    scene.write("docker-compose.yml", &text);
    scene.convoke(&["up"]).run().await.expect_code(0);
    assert_eq!(scene.read("out/all").as_deref(), Some("hush\nx: 1\ny: 2\n"));
    scene.cluster.finish().await;
}

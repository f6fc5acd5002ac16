//! Files that travel, from the submitter's directory into containers and back: a real coordinator, real
//! agents, a real Docker Engine. Without an engine, an image or root, each story is reported as ignored, under
//! a name that says what is missing.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use convoke_proto::v1;
use convoke_tests::procfs::mounted_below;
use convoke_tests::{Finished, LocalCluster, eventually};
use libtest_mimic::{Arguments, Failed, Trial};

/// Built by tests/images/build.sh: a static busybox. No registry has it, so it travels, too.
const IMAGE: &str = "convoke-test/base:1";

type Run = fn() -> Result<(), Failed>;

macro_rules! stories {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), (|| run($name())) as Run)),*]
    };
}

fn main() -> ExitCode {
    let stories = stories![
        what_rank_zero_writes_is_there_when_up_returns_and_the_rest_is_untouched,
        a_later_generation_finds_what_an_earlier_one_left,
        what_is_written_while_the_agent_is_dead_comes_back,
        a_user_that_is_not_root_can_write_to_its_own_directory,
        a_directory_is_mounted_in_a_read_only_one_that_was_shipped_without_it,
        secrets_and_configs_are_where_compose_puts_them,
        an_absolute_path_that_a_node_lacks_is_refused_by_name,
    ];
    let args = Arguments::from_args();
    let missing = if args.list { None } else { missing() };
    let trial = |(name, story): (&str, Run)| match &missing {
        None => Trial::test(name, story),
        Some(missing) => {
            Trial::test(format!("{name} (not run: {missing})"), || Ok(())).with_ignored_flag(true)
        }
    };
    libtest_mimic::run(&args, stories.into_iter().map(trial).collect()).exit_code()
}

fn run(story: impl Future<Output = ()>) -> Result<(), Failed> {
    tokio::runtime::Runtime::new()?.block_on(story);
    Ok(())
}

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("root".to_owned());
    }
    match Command::new("docker").args(["image", "inspect", IMAGE]).output() {
        Ok(output) if output.status.success() => None,
        Ok(_) => Some(format!("image {IMAGE}; build it with tests/images/build.sh base")),
        Err(error) => Some(format!("docker: {error}")),
    }
}

/// A project of one service, and nodes to run it.
struct Story {
    cluster: Option<LocalCluster>,
    project: PathBuf,
    root: PathBuf,
}

impl Story {
    /// `nodes` replicas of a service that runs `script`, with `keys` besides.
    async fn new(nodes: usize, script: &str, keys: &str) -> Self {
        let cluster = LocalCluster::start(&vec![1; nodes]).await;
        let root = cluster.directory().canonicalize().expect("it is there");
        let project = root.join("project");
        fs::create_dir_all(project.join("scripts")).expect("it is writable");
        fs::write(project.join("scripts/train.sh"), script).expect("it is writable");
        let compose = format!(
            "services:\n  train:\n    image: {IMAGE}\n    command: sh /scripts/train.sh\n    init: true\n{keys}\n    \
             deploy:\n      replicas: {nodes}\n      restart_policy: {{condition: on-failure, max_attempts: 1}}\n      \
             resources: {{reservations: {{devices: [{{driver: cpu, count: 1, capabilities: [cpu]}}]}}}}\n"
        );
        fs::write(project.join("compose.yaml"), compose).expect("it is writable");
        Self { cluster: Some(cluster), project, root }
    }

    fn cluster(&mut self) -> &mut LocalCluster {
        self.cluster.as_mut().expect("the story goes on")
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.project.join(path);
        fs::create_dir_all(path.parent().expect("it is in the project")).expect("it is writable");
        fs::write(path, content).expect("it is writable");
    }

    fn read(&self, path: &str) -> String {
        let path = self.project.join(path);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// `convoke` in the project.
    async fn convoke(&self, args: &[&str]) -> Finished {
        self.cluster.as_ref().expect("the story goes on").cli(args).directory(&self.project).run().await
    }

    /// The end: nothing is mounted any more, and nothing is laid out.
    async fn finish(mut self) {
        let root = self.root.clone();
        eventually("the replicas are removed", async || mounted_below(&root).is_empty().then_some(())).await;
        self.cluster.take().expect("it ends once").finish().await;
    }
}

impl Drop for Story {
    /// After a failure: containers would go on.
    fn drop(&mut self) {
        let Some(cluster) = self.cluster.take() else { return };
        let agents = fs::read_dir(&self.root).into_iter().flatten().flatten();
        for file in agents.map(|agent| agent.path().join("agent.json")) {
            remove_containers(&fs::read_to_string(file).unwrap_or_default());
        }
        drop(cluster);
    }
}

/// Those of the agent whose `agent.json` this is.
fn remove_containers(agent: &str) {
    let agent: serde_json::Value = serde_json::from_str(agent).unwrap_or_default();
    let Some(instance) = agent["instance"].as_str() else { return };
    let filter = format!("label=convoke.instance={instance}");
    let listed = Command::new("docker").args(["ps", "-aq", "--filter", &filter]).output();
    for id in listed.iter().flat_map(|listed| listed.stdout.split(|b| b.is_ascii_whitespace())) {
        if let Ok(id) = std::str::from_utf8(id)
            && !id.is_empty()
        {
            let _ = Command::new("docker").args(["rm", "-f", id]).output();
        }
    }
}

const VOLUMES: &str = "    volumes: [\"./scripts:/scripts:ro\", \"./data:/data\", \"./out:/out\"]";

async fn what_rank_zero_writes_is_there_when_up_returns_and_the_rest_is_untouched() {
    let script = "set -e
        test \"$(cat /data/in)\" = original
        ! echo x 2>/dev/null > /scripts/new
        mkdir -p /out/deep; echo weights-$RANK > /out/deep/$RANK.pt
        echo changed > /data/in; rm /data/unwanted; ln -s in /data/link";
    let story = Story::new(2, script, VOLUMES).await;
    story.write("data/in", "original");
    story.write("data/unwanted", "kept");
    let up = story.convoke(&["up"]).await.expect_code(0);
    assert!(up.stderr.contains("2 files came back"), "{}", up.stderr);
    assert_eq!(
        (story.read("out/deep/0.pt"), story.read("data/in")),
        ("weights-0\n".into(), "changed\n".into())
    );
    assert!(!story.project.join("out/deep/1.pt").exists(), "only node rank 0's come back");
    assert_eq!(story.read("data/unwanted"), "kept", "deletions do not travel");
    assert!(fs::symlink_metadata(story.project.join("data/link")).is_err());
    story.finish().await;
}

async fn a_later_generation_finds_what_an_earlier_one_left() {
    let script = "
        if [ -e /out/ckpt ]; then cat /out/ckpt /data/in > /out/resumed; exit 0; fi
        echo \"of rank $RANK\" > /out/ckpt; echo changed > /data/in; exit 7";
    let story = Story::new(2, script, VOLUMES).await;
    story.write("data/in", "original");
    story.convoke(&["up"]).await.expect_code(0);
    assert_eq!(story.read("out/resumed"), "of rank 0\nchanged\n", "on both nodes, or rank 0 had not seen it");
    story.finish().await;
}

async fn what_is_written_while_the_agent_is_dead_comes_back() {
    let script = "echo before > /out/before
        until [ -e /out/go ]; do sleep 0.1; done
        echo after > /out/after";
    let mut story = Story::new(1, script, VOLUMES).await;
    story.write("data/in", "original");
    story.convoke(&["up", "-d"]).await.expect_code(0);
    let cluster = story.cluster();
    cluster.wait_state("project-train", v1::JobState::Running).await;
    cluster.kill_agent(0);
    let root = story.root.clone();
    let out = eventually("the task to write into an overlay that outlives the agent", async || {
        mounted_below(&root).into_iter().find(|point| point.join("before").exists())
    })
    .await;
    fs::write(out.join("go"), "").expect("it is writable");
    eventually("the task to write", async || out.join("after").exists().then_some(())).await;
    let cluster = story.cluster();
    cluster.start_agent(0);
    cluster.wait_state("project-train", v1::JobState::Succeeded).await;
    story.convoke(&["pull", "project-train"]).await.expect_code(0);
    assert_eq!((story.read("out/before"), story.read("out/after")), ("before\n".into(), "after\n".into()));
    story.finish().await;
}

async fn a_user_that_is_not_root_can_write_to_its_own_directory() {
    let script = "set -e
        test \"$(id -u)\" = 1234
        echo new > /out/new; echo changed > /data/in; cat /data/secret > /out/copy";
    let keys = format!("    user: \"1234:1234\"\n{VOLUMES}");
    let story = Story::new(1, script, &keys).await;
    story.write("data/in", "original");
    story.write("data/secret", "for its owner alone");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(story.project.join("data/secret"), mode).expect("it is the test's");
    story.convoke(&["up"]).await.expect_code(0);
    assert_eq!(
        (story.read("out/new"), story.read("out/copy")),
        ("new\n".into(), "for its owner alone".into())
    );
    story.finish().await;
}

async fn a_directory_is_mounted_in_a_read_only_one_that_was_shipped_without_it() {
    let volumes = "    volumes: [\"./scripts:/scripts:ro\", \".:/w:ro\", \"./deep/out:/w/deep/out\"]";
    let story =
        Story::new(1, "test ! -e /w/deep/out/old.pt || exit 3; echo new > /w/deep/out/new.pt", volumes).await;
    story.write(".convokeignore", "deep\n*.pt\n");
    story.write("deep/out/old.pt", "not shipped");
    story.convoke(&["up"]).await.expect_code(0);
    assert_eq!(story.read("deep/out/new.pt"), "new\n");
    story.finish().await;
}

async fn secrets_and_configs_are_where_compose_puts_them() {
    let script = "cat /run/secrets/token /etc/app.conf /other > /out/all";
    let keys = format!(
        "{VOLUMES}\n    secrets: [token]\n    configs: [{{source: app, target: /etc/app.conf}}, other]"
    );
    let story = Story::new(1, script, &keys).await;
    story.write("data/in", "");
    for (file, content) in [("token", "hush\n"), ("app", "x: 1\n"), ("other", "y: 2\n")] {
        story.write(file, content);
    }
    let compose = story.project.join("compose.yaml");
    let text = story.read("compose.yaml")
        + "secrets: {token: {file: ./token}}\nconfigs: {app: {file: ./app}, other: {file: ./other}}\n";
    fs::write(compose, text).expect("it is writable");
    story.convoke(&["up"]).await.expect_code(0);
    assert_eq!(story.read("out/all"), "hush\nx: 1\ny: 2\n");
    story.finish().await;
}

async fn an_absolute_path_that_a_node_lacks_is_refused_by_name() {
    let volumes = "    volumes: [\"./scripts:/scripts:ro\", \"/no/such/data:/data\"]";
    let story = Story::new(1, "true", volumes).await;
    let up = story.convoke(&["up"]).await;
    assert!(!up.status.success());
    for part in ["/no/such/data of node node-0", "create it there"] {
        assert!(up.stderr.contains(part), "{}", up.stderr);
    }
    story.finish().await;
}

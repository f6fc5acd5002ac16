//! Images that travel with a submit, on a real Docker Engine. What is missing is named, and its stories
//! are reported as ignored.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};

use convoke_proto::v1;
use convoke_tests::{Cli, ClusterOptions, LocalCluster, Needs, Registry, block_on, hex, story};

fn main() -> ExitCode {
    story::run(vec![
        ("an_image_that_no_registry_has_is_sent_once_and_then_only_what_changed", Needs::Engine, || {
            told(&[], sent_once);
        }),
        ("a_build_section_is_built_here_and_again_when_told_to", Needs::Engine, || told(&[], built)),
        ("a_build_that_fails_says_so_and_submits_nothing", Needs::Engine, || told(&[], failing_build)),
        ("what_a_container_needs_goes_out_and_what_it_writes_comes_back", Needs::Engine, || {
            told(&[1, 1], round_trip);
        }),
        ("an_image_of_a_registry_is_pinned_and_not_sent_unless_told_to", Needs::Registry, || {
            told(&[], pinned);
        }),
    ])
}

fn told<F: Future<Output = ()>>(slots: &[u32], story: fn(Scene) -> F) {
    block_on(async { story(Scene::start(slots).await).await });
}

/// A coordinator, nodes if the story needs them, and a project whose one service runs an image of this story's own.
struct Scene {
    cluster: LocalCluster,
    dir: PathBuf,
    image: String,
    images: Images,
}

/// What the story leaves on the engine; removed at the end.
struct Images {
    names: Vec<String>,
    /// Of every image that is built for it, also of those whose name went on to another.
    label: String,
}

impl Drop for Images {
    fn drop(&mut self) {
        let filter = format!("label={}", self.label);
        let listed =
            Command::new("docker").args(["images", "--all", "--quiet", "--filter", &filter]).output();
        let listed = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let ids = listed.unwrap_or_default();
        for image in self.names.iter().map(String::as_str).chain(ids.lines()) {
            let _ = Command::new("docker").args(["image", "rm", "--force", image]).output();
        }
    }
}

impl Scene {
    async fn start(slots: &[u32]) -> Self {
        let cluster = LocalCluster::start_with(ClusterOptions::containers(slots)).await;
        let dir = cluster.directory().join("p");
        fs::create_dir_all(dir.join("image")).expect("it is writable");
        // The temporary directory has a name that nobody else has.
        let unique = cluster.directory().file_name().and_then(|n| n.to_str()).expect("a name").to_lowercase();
        let image = format!("{unique}-image");
        let images = Images { names: vec![image.clone()], label: format!("convoke-story={unique}") };
        let scene = Self { cluster, dir, image: image.clone(), images };
        scene.compose(&format!("    image: {image}\n"));
        scene.write("image/base", &"base layer ".repeat(95_325));
        scene
    }

    fn write(&self, path: &str, content: &str) {
        fs::write(self.dir.join(path), content).expect("it is writable");
    }

    fn compose(&self, keys: &str) {
        self.write("compose.yaml", &format!("name: p\nservices:\n  train:\n{keys}    command: [\"/x\"]\n"));
    }

    /// Builds the story's image with these layers, each a file of the context.
    fn build(&self, layers: &[&str]) {
        let copies: String = layers.iter().map(|layer| format!("COPY {layer} /{layer}\n")).collect();
        self.write("image/Dockerfile", &format!("FROM scratch\n{copies}"));
        docker(&["build", "--label", &self.images.label, "--tag", &self.image, "image"], &self.dir);
    }

    fn up(&self, args: &[&str]) -> Cli {
        let args: Vec<_> = ["up", "-d", "--wait-for-nodes"].into_iter().chain(args.iter().copied()).collect();
        self.cluster.cli(&args).directory(&self.dir)
    }

    async fn container(&self, job: &str) -> v1::ContainerOptions {
        self.cluster.job(job).await.spec.and_then(|spec| spec.container).expect("a container")
    }

    async fn content(&self, job: &str) -> String {
        hex(&self.container(job).await.image_content.expect("the image's content").sha256)
    }
}

/// Runs the `docker` command; its output is the story's when it fails.
fn docker(args: &[&str], dir: &Path) -> Output {
    let output = Command::new("docker").args(args).current_dir(dir).output().expect("docker can be started");
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

async fn sent_once(scene: Scene) {
    scene.build(&["base"]);
    let first = scene.up(&[]).run().await.expect_code(0);
    assert!(
        first.stderr.contains("which no registry has: shipped 6 of 6 files, 1.0 MiB"),
        "{}",
        first.stderr
    );
    let content = scene.content("p-train").await;

    let second = scene.up(&["--name", "second"]).run().await.expect_code(0);
    assert!(second.stderr.contains("shipped nothing of"), "{}", second.stderr);
    assert_eq!(scene.content("second").await, content);

    // Exported again, it is the same, layer by layer.
    fs::remove_dir_all(scene.cluster.directory().join("cache/convoke/images")).expect("what was remembered");
    let third = scene.up(&["--name", "third"]).run().await.expect_code(0);
    assert!(third.stderr.contains("shipped nothing of"), "{}", third.stderr);
    assert_eq!(scene.content("third").await, content);

    scene.write("image/more", "a small layer");
    scene.build(&["base", "more"]);
    let changed = scene.up(&["--name", "changed"]).run().await.expect_code(0);
    assert!(changed.stderr.contains("(1.0 MiB unchanged)"), "{}", changed.stderr);
    assert_ne!(scene.content("changed").await, content);

    let left = scene.up(&["--name", "left", "--no-ship-image"]).run().await.expect_code(0);
    assert!(left.stderr.contains("every node must have it"), "{}", left.stderr);
    assert!(scene.container("left").await.image_content.is_none());
    scene.cluster.finish().await;
}

async fn built(scene: Scene) {
    scene.write("image/Dockerfile", "FROM scratch\nARG FILE\nCOPY $FILE /x\n");
    scene.write("image/.dockerignore", "secret\n");
    scene.write("image/secret", "not for the image");
    let build = "    build:\n      context: image\n      args:\n        FILE: base\n      labels:\n";
    let label = &scene.images.label;
    scene.compose(&format!("    image: {}\n{build}        - {label}\n", scene.image));
    let dry = scene.cluster.cli(&["up", "--dry-run", "--wait-for-nodes"]).directory(&scene.dir);
    let dry = dry.run().await.expect_code(0);
    assert!(dry.stdout.contains(&format!("would build {}", scene.image)), "{}", dry.stdout);

    let first = scene.up(&[]).run().await.expect_code(0);
    assert!(first.stderr.contains("building") && first.stderr.contains("shipped"), "{}", first.stderr);
    let content = scene.content("p-train").await;
    scene.write("image/base", "changed");
    let second = scene.up(&["--name", "second"]).run().await.expect_code(0);
    assert!(second.stderr.contains("--build builds it again"), "{}", second.stderr);
    assert_eq!(scene.content("second").await, content);
    scene.up(&["--name", "third", "--build"]).run().await.expect_code(0);
    assert_ne!(scene.content("third").await, content);
    scene.cluster.finish().await;
}

async fn failing_build(scene: Scene) {
    scene.write("image/Dockerfile", "FROM scratch\nCOPY nothing-of-that-name /x\n");
    scene.compose(&format!("    image: {}\n    build: ./image\n", scene.image));
    let failed = scene.up(&["-o", "json"]).run().await.expect_code(1);
    assert_eq!(failed.json_error()["reason"], "DOCKER_COMMAND");
    assert!(failed.stderr.contains("nothing-of-that-name"), "docker's own words: {}", failed.stderr);
    let no_engine = scene.up(&["-o", "json"]).variable("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let no_engine = no_engine.run().await.expect_code(1).json_error();
    assert_eq!(no_engine["reason"], "NO_DOCKER");
    assert!(no_engine["message"].as_str().is_some_and(|m| m.contains("services.train.build")), "{no_engine}");
    let jobs = scene.cluster.cli(&["ps", "-a", "-o", "json"]).run().await.json();
    assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(0));
    scene.cluster.finish().await;
}

/// Makes the story's image from this host's shell and what that is linked with.
fn import_shell(scene: &Scene) {
    let root = scene.dir.join("root");
    for program in ["/bin/sh", "/bin/cat", "/bin/mkdir", "/bin/chmod"] {
        let linked = Command::new("ldd").arg(program).output().expect("ldd can be started");
        let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
        let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
        for file in libraries.chain([program]) {
            let target = root.join(file.trim_start_matches('/'));
            fs::create_dir_all(target.parent().expect("it lies in a directory")).expect("it is writable");
            fs::copy(file, target).expect("it is readable");
        }
    }
    let archive = scene.dir.join("root.tar");
    let packed = Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".").status();
    assert!(packed.is_ok_and(|status| status.success()), "tar");
    let label = format!("LABEL {}", scene.images.label);
    let archive = archive.to_str().expect("UTF-8");
    docker(&["import", "--change", &label, archive, &scene.image], &scene.dir);
}

async fn round_trip(scene: Scene) {
    import_shell(&scene);
    fs::create_dir_all(scene.dir.join("src/sub")).expect("it is writable");
    scene.write("src/sub/greeting", "hello from the submitter");
    scene.write("token", "sesame");
    scene.write("settings.ini", "a=1\n");
    let script = "cat /src/sub/greeting /run/secrets/token; mkdir -p /out/sub; \
                  cat /src/sub/greeting > /out/sub/copy; chmod 750 /out/sub/copy; echo more >> /out/log; echo b=2 >> /settings.ini";
    scene.write(
        "compose.yaml",
        &format!(
            "name: p\nservices:\n  train:\n    image: {}\n    command: [\"/bin/sh\", \"-c\", {script:?}]\n    \
             volumes: [\"./src:/src:ro\", \"./out:/out\", \"./settings.ini:/settings.ini\"]\n    secrets: [token]\n    deploy:\n      \
             replicas: 2\nsecrets:\n  token:\n    file: ./token\n",
            scene.image
        ),
    );
    let up = scene.cluster.cli(&["up"]).directory(&scene.dir).run().await.expect_code(0);
    assert!(up.stdout.contains("hello from the submittersesame"), "{}", up.stdout);
    assert!(up.stderr.contains("3 files came back into ./out, ./settings.ini (37 B)"), "{}", up.stderr);
    let read = |path: &str| fs::read_to_string(scene.dir.join(path)).unwrap_or_default();
    assert_eq!(read("out/sub/copy"), "hello from the submitter");
    let mode = fs::metadata(scene.dir.join("out/sub/copy")).expect("it came back").permissions().mode();
    assert_eq!(read("settings.ini"), "a=1\nb=2\n");
    assert_eq!((read("out/log").as_str(), mode & 0o777), ("more\n", 0o750));
    // What came back goes out again, and only what changes in it comes back again.
    let again = scene.cluster.cli(&["up"]).directory(&scene.dir).run().await.expect_code(0);
    assert!(again.stderr.contains("shipped nothing of 5 files"), "{}", again.stderr);
    assert!(again.stderr.contains("2 files came back into ./out, ./settings.ini (22 B)"), "{}", again.stderr);
    assert_eq!(read("out/log"), "more\nmore\n");
    scene.cluster.finish().await;
}

async fn pinned(mut scene: Scene) {
    let registry = Registry::start(scene.cluster.directory()).await;
    let name = format!("{}/team/{}:1", registry.address, scene.image);
    scene.build(&["base"]);
    docker(&["tag", &scene.image, &name], &scene.dir);
    scene.images.names.push(name.clone());
    docker(&["push", &name], &scene.dir);
    let digests = docker(&["inspect", "--format", "{{join .RepoDigests \" \"}}", &name], &scene.dir);
    let digests = String::from_utf8(digests.stdout).expect("UTF-8");
    let digest = digests.trim().rsplit('@').next().expect("a digest").to_owned();

    // The same bits under a name of their own are still what no registry has.
    scene.up(&[]).run().await.expect_code(0);
    assert!(scene.container("p-train").await.image_content.is_some());

    scene.compose(&format!("    image: {name}\n"));
    let here = scene.up(&["--name", "here"]).run().await.expect_code(0);
    assert!(!here.stderr.contains("shipped"), "{}", here.stderr);
    assert_eq!(scene.container("here").await.image_digest.as_deref(), Some(digest.as_str()));
    scene.up(&["--name", "sent", "--ship-image"]).run().await.expect_code(0);
    assert!(scene.container("sent").await.image_content.is_some());

    // Not here: what the registry means by the name now is what all nodes run.
    for image in scene.images.names.drain(..) {
        docker(&["image", "rm", "--force", &image], &scene.dir);
    }
    scene.up(&["--name", "absent"]).run().await.expect_code(0);
    assert_eq!(scene.container("absent").await.image_digest.as_deref(), Some(digest.as_str()));
    scene.up(&["--name", "pulled", "--pull"]).run().await.expect_code(0);
    scene.images.names.push(name.clone());
    assert_eq!(scene.container("pulled").await.image_digest.as_deref(), Some(digest.as_str()));
    docker(&["image", "inspect", &name], &scene.dir);

    drop(registry);
    docker(&["image", "rm", "--force", &name], &scene.dir);
    let gone = scene.up(&["--name", "gone"]).run().await.expect_code(0);
    assert!(gone.stderr.contains("what its registry has could not be told"), "{}", gone.stderr);
    assert!(scene.container("gone").await.image_digest.is_none());
    scene.cluster.finish().await;
}

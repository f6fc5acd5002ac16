//! Beside training: servers, their health and ports, commands and files in running containers, images
//! that are built, memory that a replica's tasks share.

use std::fs;

use convoke_proto::v1;
use convoke_tests::{BASE, JOB, Scene, docker, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SERVER: &str = "mkdir -p /www && echo 'hello from the node' > /www/index.html
exec httpd -f -p 8000 -h /www";

pub(crate) async fn a_server_s_port_is_reached_through_the_coordinator() {
    let scene = Scene::start(&[1]).await;
    scene.script(SERVER, "ports: [\"8000\"]\nhealthcheck: {test: wget -qO- 127.0.0.1:8000, interval: 200ms}");
    scene.convoke(&["up", "-d"]).run().await.expect_code(0);
    scene.cluster.wait_state(JOB, v1::JobState::Running).await;
    let id = scene.container(0).await;
    let healthy = async || {
        (docker(&["inspect", "--format", "{{.State.Health.Status}}", &id]) == "healthy").then_some(())
    };
    eventually("the server is healthy", healthy).await;
    let mut port = scene.convoke(&["port", JOB, "0:8000"]).start();
    let said = port.line("127.0.0.1:").await;
    let at = said.split_whitespace().find(|word| word.starts_with("127.0.0.1:")).expect("an address");
    assert!(get(at).await.ends_with("hello from the node\n"));
    drop(port);
    scene.convoke(&["down"]).run().await.expect_code(0);
    scene.cluster.finish().await;
}

async fn get(at: &str) -> String {
    let mut stream = TcpStream::connect(at).await.expect("somebody listens");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.expect("it can be asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("it answers");
    answer
}

pub(crate) async fn exec_and_cp_reach_into_a_running_container() {
    let scene = Scene::start(&[1, 1]).await;
    let (mut gate, volume) = scene.gate("end");
    scene.script(
        &format!("echo of $NODE_RANK > /tmp/rank; echo up; {}", gate.wait()),
        &format!("volumes: [\"{volume}\"]"),
    );
    scene.convoke(&["up", "-d", "--nodes", "2"]).run().await.expect_code(0);
    scene.cluster.wait_state(JOB, v1::JobState::Running).await;
    for rank in ["0", "1"] {
        scene.container(rank.parse().expect("a number")).await;
        let args = ["exec", "-T", "--rank", rank, JOB, "sh", "-c", "cat /tmp/rank; exit 7"];
        let said = scene.convoke(&args).run().await.expect_code(7);
        assert_eq!(said.stdout, format!("of {rank}\n"));
    }
    scene.write("tree/a/b", "taken along");
    scene.convoke(&["cp", "tree", &format!("{JOB}:/tmp/tree")]).run().await.expect_code(0);
    scene.convoke(&["cp", &format!("{JOB}:/tmp/tree"), "back"]).run().await.expect_code(0);
    assert_eq!(scene.read("back/a/b").as_deref(), Some("taken along"));
    // A task that plants a link by one copy, and writes through it by the next.
    let inside = async |script: &str| {
        scene.convoke(&["exec", "-T", JOB, "sh", "-c", script]).run().await.expect_code(0);
    };
    let copy = || scene.convoke(&["cp", &format!("{JOB}:/a"), "."]);
    let victim = scene.cluster.directory().join("victim");
    fs::create_dir(&victim).expect("it is writable");
    inside(&format!("mkdir /a; mkfifo /a/pipe; ln -s {} /a/x", victim.display())).await;
    let first = copy().run().await.expect_code(0);
    assert!(first.stderr.contains("a/pipe is a FIFO"), "{}", first.stderr);
    inside("rm /a/x; mkdir /a/x; echo pwned > /a/x/authorized_keys").await;
    let second = copy().run().await.expect_code(1);
    assert!(second.stderr.contains("a/x") && second.stderr.contains("link"), "{}", second.stderr);
    assert_eq!(fs::read_dir(&victim).expect("it is there").count(), 0);
    let missing = scene.convoke(&["cp", &format!("{JOB}:/none"), "."]).run().await.expect_code(4);
    assert!(missing.stderr.contains("in the container"), "{}", missing.stderr);
    gate.open();
    scene.cluster.wait_state(JOB, v1::JobState::Succeeded).await;
    scene.cluster.finish().await;
}

pub(crate) async fn a_service_waits_until_the_one_it_depends_on_is_healthy() {
    let scene = Scene::start(&[2]).await;
    let (mut gate, volume) = scene.gate("healthy");
    scene.write(
        "compose.yaml",
        &format!(
            "name: story\nservices:
  server:
    image: {BASE}
    volumes: [\"{volume}\"]
    command: [sh, -c, \"{}; touch /tmp/there; exec sleep 1000\"]
    healthcheck: {{test: [CMD, test, -f, /tmp/there], interval: 100ms}}
    restart: unless-stopped
  job:
    image: {BASE}
    command: echo the server is healthy
    depends_on: {{server: {{condition: service_healthy}}}}
",
            gate.wait()
        ),
    );
    scene.convoke(&["up", "-d"]).run().await.expect_code(0);
    scene.cluster.wait_for(JOB, "it waits", |job| job.reason.contains("to be healthy")).await;
    gate.open();
    scene.cluster.wait_state(JOB, v1::JobState::Succeeded).await;
    assert_eq!(scene.cluster.job("story-server").await.state(), v1::JobState::Running);
    scene.convoke(&["down"]).run().await.expect_code(0);
    scene.cluster.finish().await;
}

pub(crate) async fn a_service_with_a_build_section_runs_what_was_built() {
    let scene = Scene::start(&[1]).await;
    let unique =
        scene.cluster.directory().file_name().and_then(|n| n.to_str()).expect("a name").to_lowercase();
    scene.write("Dockerfile", &format!("FROM {BASE}\nCOPY greeting /greeting\n"));
    scene.write("greeting", &unique);
    scene.compose(&format!("build: .\nimage: {unique}:1\ncommand: cat /greeting"));
    let up = scene.convoke(&["up"]).run().await;
    docker(&["image", "rm", "--force", &format!("{unique}:1")]);
    let up = up.expect_code(0);
    assert!(up.stdout.contains(&format!("│ {unique}")), "{}", up.stdout);
    scene.cluster.finish().await;
}

pub(crate) async fn the_tasks_of_a_replica_share_memory() {
    let scene = Scene::start(&[2]).await;
    let (mut gate, volume) = scene.gate("written");
    let script = format!(
        "readlink /proc/self/ns/ipc
         if [ $LOCAL_RANK = 0 ]; then echo 'from rank 0' > /dev/shm/note; echo written; fi
         {}; cat /dev/shm/note",
        gate.wait()
    );
    let keys = format!(
        "volumes: [\"{volume}\"]\nx-convoke: {{ranks: per-gpu}}\ndeploy:\n  resources:\n    reservations:\n      \
         devices: [{{driver: cpu, count: 2, capabilities: [cpu]}}]"
    );
    scene.script(&script, &keys);
    scene.convoke(&["up", "-d"]).run().await.expect_code(0);
    scene.cluster.wait_line(JOB, "written").await;
    // A task that is started after its first has ended has memory of its own.
    scene.container(1).await;
    gate.open();
    scene.cluster.wait_state(JOB, v1::JobState::Succeeded).await;
    let log = scene.cluster.log(JOB).await;
    let of = |rank| log.iter().filter(move |l| l.rank == rank && l.text != "written").map(|l| &l.text);
    assert!(of(0).eq(of(1)), "{log:?}");
    assert_eq!(of(1).map(String::as_str).next_back(), Some("from rank 0"));
    let host = fs::read_link("/proc/self/ns/ipc").expect("it can be read").display().to_string();
    assert!(of(1).any(|l| l.starts_with("ipc:[")) && of(1).all(|l| *l != host), "{log:?}");
    scene.cluster.finish().await;
}

//! Which job and which server people mean.

use std::fs;
use std::process::Command;

use convoke_proto::v1;
use convoke_tests::{Cli, Finished, LocalCluster, binary};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A directory with a Compose file of one service, `train`, and its project's name.
fn project(cluster: &LocalCluster, name: &str, command: &str) -> std::path::PathBuf {
    let directory = cluster.directory().join(name);
    fs::create_dir(&directory).expect("it is writable");
    let compose = format!("services:\n  train:\n    command: {command}\n");
    fs::write(directory.join("compose.yaml"), compose).expect("it is writable");
    directory
}

#[tokio::test]
async fn a_service_is_that_of_the_project_where_one_is_and_what_runs_goes_first() {
    let cluster = LocalCluster::start(&[2]).await;
    let (mine, other) = (project(&cluster, "mine", "sleep 600"), project(&cluster, "other", "echo ended"));
    cluster.cli(&["up"]).directory(&other).run().await.expect_code(0);
    cluster.cli(&["up", "-d"]).directory(&mine).run().await.expect_code(0);
    cluster.wait_state("mine-train", v1::JobState::Running).await;
    let name = |done: Finished| done.expect_code(0).json()["spec"]["name"].as_str().map(str::to_owned);
    let inspect = |words: &[&str]| cluster.cli(&[&["inspect", "-o", "json", "train"], words].concat());
    assert_eq!(name(inspect(&[]).directory(&mine).run().await).as_deref(), Some("mine-train"));
    assert_eq!(name(inspect(&[]).directory(&other).run().await).as_deref(), Some("other-train"));
    assert_eq!(name(inspect(&[]).run().await).as_deref(), Some("mine-train"), "it runs");
    assert_eq!(name(inspect(&["-p", "other"]).directory(&mine).run().await).as_deref(), Some("other-train"));
    let unknown = cluster.cli(&["inspect", "-p", "mine", "eval"]).run().await.expect_code(4);
    assert!(unknown.stderr.contains("it has train"), "{}", unknown.stderr);
    for command in [&["exec", "train", "true"][..], &["port", "train", "80"], &["cp", "train:/x", "."]] {
        let ended = cluster.cli(command).directory(&other).run().await.expect_code(4);
        assert!(ended.stderr.contains("does not run: it succeeded"), "{}", ended.stderr);
    }
    let logs = cluster.cli(&["logs", "-t", "--tail", "all"]).directory(&other).run().await.expect_code(0);
    assert!(logs.stdout.contains("Z ended"), "{}", logs.stdout);
    let none = cluster.cli(&["logs"]).run().await.expect_code(2);
    assert!(none.stderr.contains("no job is named"), "{}", none.stderr);
    let ids = cluster.cli(&["ps", "-q"]).run().await.expect_code(0).stdout;
    assert_eq!(ids.trim(), cluster.job("mine-train").await.id);
    cluster.cli(&["stop", "train"]).directory(&mine).run().await.expect_code(0);
    assert_eq!(cluster.job("mine-train").await.state(), v1::JobState::Stopped);
    cluster.finish().await;
}

#[tokio::test]
async fn a_server_that_is_no_coordinator_is_told_at_once() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", server.local_addr().expect("it has one"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            let answer = b"HTTP/1.0 400 Bad request\r\nConnection: close\r\n\r\nthis is a web server\r\n";
            let _ = stream.write_all(answer).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    let done = Cli::new(&["ps", "--coordinator", &url]).run().await.expect_code(3);
    assert!(done.stderr.contains("no Convoke coordinator"), "{}", done.stderr);
    assert!(!done.stderr.contains("went away"), "{}", done.stderr);
}

#[test]
fn an_agent_refuses_an_address_without_its_scheme() {
    let agent = Command::new(binary("convoke-agent")).args(["--coordinator", "127.0.0.1:7670"]).output();
    let agent = agent.expect("it can be started");
    assert_eq!(agent.status.code(), Some(2));
    let told = String::from_utf8_lossy(&agent.stderr);
    assert!(told.contains("http://host:port"), "{told}");
}

//! Services of one file on several nodes: they find each other by name, and one starts from what another left.

use std::fs;

use convoke_proto::v1;
use convoke_tests::{BASE, Scene};

use super::hosts::Hosts;

/// A service of the base image on a node, whose shell runs `script`.
fn service(name: &str, node: usize, keys: &str, script: &str) -> String {
    let keys: String = keys.lines().map(|line| format!("    {}\n", line.trim())).collect();
    let script: String = script.lines().map(|line| format!("        {}\n", line.trim())).collect();
    format!(
        "  {name}:\n    image: {BASE}\n{keys}    deploy: {{placement: {{constraints: [node.id == node-{node}]}}}}\n    \
         command:\n      - sh\n      - -c\n      - |\n{}",
        script.replace('$', "$$")
    )
}

fn file(services: &[String]) -> String {
    format!("name: story\nservices:\n{}", services.concat())
}

pub(crate) async fn a_service_on_another_node_is_reached_by_its_names_and_the_user_s_own_hosts_win() {
    let hosts = Hosts::start(&[1, 1]).await;
    let scene = &hosts.scene;
    let server = service(
        "server",
        0,
        "container_name: front
         networks: {default: {aliases: [store, mine]}}
         healthcheck: {test: wget -qO- 127.0.0.1:8000, interval: 200ms}
         restart: unless-stopped",
        "mkdir -p /www; echo hello > /www/index.html
         exec httpd -f -p 8000 -h /www",
    );
    let client = service(
        "client",
        1,
        "depends_on: {server: {condition: service_healthy}}
         extra_hosts: [\"mine:10.255.255.1\"]",
        "for name in server front store; do echo $name: $(wget -qO- $name:8000); done
         grep -w mine /etc/hosts; grep -w server /etc/hosts",
    );
    scene.write("compose.yaml", &file(&[server, client]));
    scene.convoke(&["up", "-d"]).run().await.expect_code(0);
    scene.cluster.wait_state("story-client", v1::JobState::Succeeded).await;
    let said: Vec<String> =
        scene.cluster.log("story-client").await.into_iter().map(|line| line.text).collect();
    assert_eq!(said[..3], ["server: hello", "front: hello", "store: hello"], "{said:?}");
    let known: Vec<Vec<&str>> = said[3..].iter().map(|line| line.split_whitespace().collect()).collect();
    let node = hosts.networks.node(0).to_string();
    assert_eq!(known, [["10.255.255.1", "mine"], [node.as_str(), "server"]]);
    scene.convoke(&["down"]).run().await.expect_code(0);
    hosts.finish().await;
}

pub(crate) async fn a_container_in_a_network_of_its_own_reaches_a_service_by_its_name() {
    let scene = Scene::start(&[1, 1]).await;
    let ports = scene.cluster.directory().join("ports");
    fs::create_dir(&ports).expect("it is writable");
    let volume = format!("volumes: [\"{}:/ports\"]", ports.display());
    let server = service(
        "server",
        0,
        &format!(
            "{volume}\nhealthcheck: {{test: test -e /ports/server, interval: 100ms}}\nrestart: unless-stopped"
        ),
        "mkdir -p /www; echo hello > /www/index.html
         httpd -p $MASTER_PORT -h /www && echo $MASTER_PORT > /ports/server
         exec sleep 1000",
    );
    let client = |name: &str, keys: &str| {
        let keys = format!("{volume}\ndepends_on: {{server: {{condition: service_healthy}}}}\n{keys}");
        service(name, 1, &keys, &format!("echo {name}: $(wget -qO- server:$(cat /ports/server))"))
    };
    let (apart, beside) = (client("apart", "network_mode: bridge"), client("beside", ""));
    scene.write("compose.yaml", &file(&[server, apart, beside]));
    scene.convoke(&["up", "-d"]).run().await.expect_code(0);
    for name in ["apart", "beside"] {
        let job = format!("story-{name}");
        scene.cluster.wait_state(&job, v1::JobState::Succeeded).await;
        assert_eq!(scene.cluster.log(&job).await[0].text, format!("{name}: hello"));
    }
    scene.convoke(&["down"]).run().await.expect_code(0);
    scene.cluster.finish().await;
}

pub(crate) async fn a_consumer_starts_from_what_its_producer_left_and_what_it_changes_takes_its_place() {
    let scene = Scene::start(&[1, 1]).await;
    let producer = service(
        "zero",
        0,
        "volumes: [\"./data:/data\"]",
        "echo made > /data/made; echo changed > /data/in; mkdir /data/deep; echo deep > /data/deep/file",
    );
    let done = "depends_on: {zero: {condition: service_completed_successfully}}";
    let reader = service(
        "consumer",
        1,
        &format!("volumes: [\"./data:/data:ro\", \"./data/deep:/deep\"]\n{done}"),
        "cat /data/made /data/in /data/untouched /data/deep/file /deep/file",
    );
    let changer = service(
        "last",
        1,
        &format!("volumes: [\".:/w\"]\n{done}"),
        "set -e; cd /w/data; cat made in untouched deep/file; echo again >> made; cat made > ../copy",
    );
    scene.write("compose.yaml", &file(&[changer, reader, producer]));
    scene.write("data/in", "original\n");
    scene.write("data/untouched", "untouched\n");
    scene.write("data/deep.txt", "between\n");
    let up = scene.convoke(&["up"]).run().await.expect_code(0);
    for line in ["made", "changed", "untouched", "deep"] {
        let said = up.stdout.lines().filter(|said| said.ends_with(&format!("│ {line}"))).count();
        assert_eq!(said, if line == "deep" { 3 } else { 2 }, "{line}:\n{}", up.stdout);
    }
    assert_eq!(scene.read("data/made").as_deref(), Some("made\nagain\n"), "{}", up.stderr);
    assert_eq!(scene.read("copy").as_deref(), Some("made\nagain\n"));
    assert_eq!(scene.read("data/in").as_deref(), Some("changed\n"));
    let beside = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().contains(".from-");
    let entries = fs::read_dir(scene.project.join("data")).expect("it is there").flatten();
    assert_eq!(entries.filter(|entry| beside(entry)).count(), 0, "{}", up.stderr);
    scene.cluster.finish().await;
}

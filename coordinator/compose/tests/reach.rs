//! What services find of each other on a cluster, where that is not what they find on one host.

use std::collections::BTreeMap;
use std::path::PathBuf;

use convoke_compose::{LoadOptions, Project};

/// Services from a line of keys each, from line 2 on.
fn load(services: &[(&str, &str)], top: &str) -> Project {
    let body: String =
        services.iter().map(|(name, keys)| format!("  {name}: {{image: i, {keys}}}\n")).collect();
    let files = BTreeMap::from([(PathBuf::from("/p/compose.yaml"), format!("services:\n{body}{top}"))]);
    let options = LoadOptions { working_dir: "/p".into(), ..LoadOptions::default() };
    Project::load_from(&options, &files).unwrap_or_else(|e| panic!("{e}"))
}

fn notes(services: &[(&str, &str)]) -> Vec<String> {
    load(services, "").notes.iter().map(ToString::to_string).collect()
}

const CLIENT: (&str, &str) = ("web", "depends_on: [db]");

#[test]
fn a_port_that_others_know_by_another_number_is_noted_where_somebody_needs_it() {
    let db = ("db", "ports: ['8080:80', '6379:6379', '53', '127.0.0.1:9000:9000']");
    let expected = "compose.yaml:2: services.db.ports: on the cluster other services, such as \"web\", reach \"db\" \
                    through its node: port 80 at 8080; port 53 at one that the engine chooses; publish it as 53:53; \
                    port 9000 only from that node itself; leave the address out of it";
    assert_eq!(notes(&[db, CLIENT]), [expected]);
    assert_eq!(notes(&[db, ("web", "environment: {DB: 'tcp://db:80/x'}")]), [expected]);
    assert_eq!(notes(&[db, ("web", "command: wait-for db:80")]), [expected]);
    assert_eq!(notes(&[db, ("web", "command: run my-db dbs")]), Vec::<String>::new());
    assert_eq!(notes(&[("db", "ports: ['80:80']"), CLIENT]), Vec::<String>::new());
}

#[test]
fn a_network_that_ends_at_its_node_is_noted_where_somebody_needs_to_come_in() {
    let said = notes(&[("db", "network_mode: bridge"), CLIENT]);
    let expected = "compose.yaml:2: services.db.network_mode: \"web\" cannot reach \"db\" on the cluster: its network \
                    ends at its node; publish its ports, or leave network_mode out";
    assert_eq!(said, [expected]);
    assert_eq!(notes(&[("db", "network_mode: bridge"), ("web", "init: true")]), Vec::<String>::new());
    assert_eq!(notes(&[("db", "init: true"), CLIENT]), Vec::<String>::new(), "it is in its node's network");
}

#[test]
fn ports_and_a_host_name_in_the_nodes_networks_are_noted() {
    let said = notes(&[("train", "hostname: boss, ports: ['8080:80'], deploy: {replicas: 2}")]);
    let all = said.join("\n");
    assert!(
        all.contains("compose.yaml:2: services.train.ports: has no effect: a gang is in its nodes'"),
        "{all}"
    );
    assert!(
        all.contains("compose.yaml:2: services.train.hostname: names it for other services only"),
        "{all}"
    );
    let said = notes(&[("train", "network_mode: host, ports: ['8080:80']")]);
    assert!(said[0].contains("services.train.ports: has no effect: it is in its node's network"), "{said:?}");
}

#[test]
fn a_volume_that_several_mount_is_each_node_s_own() {
    let volumes = "volumes: ['cache:/cache']";
    let said = |services: &[(&str, &str)]| {
        let notes = load(services, "volumes: {cache: {}}\n").notes;
        notes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let two = said(&[("a", volumes), ("b", volumes)]);
    assert!(
        two[0].starts_with(
            "compose.yaml:3: services.b.volumes: volume p_cache is each node's own: on different nodes \"a\" and \"b\""
        ),
        "{two:?}"
    );
    assert_eq!(said(&[("a", volumes)]), Vec::<String>::new());
    let gang = said(&[("a", "volumes: ['cache:/cache'], deploy: {replicas: 3}")]);
    assert!(gang[0].contains("the 3 replicas of \"a\""), "{gang:?}");
}

#[test]
fn aliases_are_names_of_the_service_and_read_back_from_what_config_prints() {
    let networks = "networks: {back: {aliases: [store, db.local]}, front: {aliases: [store]}}";
    let project = load(&[("db", networks)], "networks: {back: {}, front: {}}\n");
    assert_eq!(project.jobs[0].container.aliases, ["store", "db.local"]);
    let files = BTreeMap::from([(PathBuf::from("/p/compose.yaml"), project.to_yaml())]);
    let options = LoadOptions { working_dir: "/p".into(), ..LoadOptions::default() };
    assert_eq!(Project::load_from(&options, &files).unwrap().jobs, project.jobs);
}

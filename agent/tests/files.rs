//! Files that travel, without overlays: brought here, laid out, taken down. What needs root is in
//! `files_mounted.rs`.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use convoke_agent::files::FilesConfig;
use convoke_model::{Artifact, FileGrant, Generation, NodeId, NodeRank, Timestamp, TreeRef};
use convoke_tree::{Entry, Kind, Manifest};
use support::{Coordinator, Node, bind, container, digest_of, names, tree, until};

const COPIES: FilesConfig =
    FilesConfig { overlays: false, cache_limit: None, return_limit: None, keep: None, patience: None };

/// A coordinator, a state directory, and a node that makes copies.
async fn node() -> (Coordinator, tempfile::TempDir, Node) {
    let (coordinator, directory) = (Coordinator::start().await, tempfile::tempdir().unwrap());
    let node = Node::new(directory.path(), &coordinator.url(), COPIES);
    (coordinator, directory, node)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_brought_once_and_another_brings_only_what_differs() {
    let (coordinator, _directory, node) = node().await;
    let first = tree(&coordinator, &[("data/", ""), ("data/a", "A"), ("l", "-> data/a"), ("same", "A")]);
    let paths = node.paths(&container("j", 1, vec![bind("./d", true, &first)])).await;
    assert_eq!(read(&paths[0].join("data/a")), "A");
    assert_eq!(read(&paths[0].join("l")), "A");
    assert_eq!(coordinator.memory().files.fetched, [first.digest, digest_of(b"A")], "each blob once");
    let second = tree(&coordinator, &[("data/", ""), ("data/a", "A"), ("data/b", "B")]);
    coordinator.memory().files.fetched.clear();
    node.paths(&container("k", 1, vec![bind("./d", true, &second)])).await;
    assert_eq!(coordinator.memory().files.fetched, [second.digest, digest_of(b"B")]);
    coordinator.memory().files.fetched.clear();
    node.paths(&container("l", 1, vec![bind("./d", true, &second)])).await;
    assert!(coordinator.memory().files.fetched.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_mounts_are_one_shared_tree_that_is_the_cache_itself() {
    let (coordinator, _directory, node) = node().await;
    let shipped = tree(&coordinator, &[("a", "A")]);
    let first = node.paths(&container("j", 1, vec![bind("./d", true, &shipped)])).await;
    let second = node.paths(&container("k", 1, vec![bind("./d", true, &shipped)])).await;
    assert_eq!(first, second);
    let (laid, blob) = (first[0].join("a"), node.files.cache().path(digest_of(b"A")));
    assert_eq!(fs::metadata(laid).unwrap().ino(), fs::metadata(blob).unwrap().ino());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_goes_on_with_what_is_missing() {
    let (coordinator, _directory, node) = node().await;
    let contents: Vec<(String, String)> =
        (0..20).map(|n| (format!("f{n:02}"), format!("content {n}"))).collect();
    let entries: Vec<(&str, &str)> = contents.iter().map(|(p, c)| (p.as_str(), c.as_str())).collect();
    let shipped = tree(&coordinator, &entries);
    // The last one is for the manifest: its header comes, and no byte of it.
    coordinator.memory().files.cut_fetches = vec![3, 8, 1];
    let paths = node.paths(&container("j", 1, vec![bind("./d", true, &shipped)])).await;
    for (path, content) in &entries {
        assert_eq!(read(&paths[0].join(path)), *content);
    }
    let fetched = coordinator.memory().files.fetched.clone();
    assert_eq!(fetched.len(), 21, "what had come was not asked for again: {fetched:?}");
}

/// Four messages of content and a bit.
fn large() -> String {
    "0123456789abcde\n".repeat((1 << 16) + 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_broke_in_the_middle_goes_on_where_it_stopped() {
    let (coordinator, _directory, node) = node().await;
    let content = large();
    let shipped = tree(&coordinator, &[("large", &content)]);
    let blob = digest_of(content.as_bytes());
    // The manifest comes whole; then a header and two messages, a header and one, and the rest.
    coordinator.memory().files.cut_fetches = vec![2, 3, 99];
    let paths = node.paths(&container("j", 1, vec![bind("./d", true, &shipped)])).await;
    assert!(read(&paths[0].join("large")) == content);
    let memory = coordinator.memory();
    assert_eq!(memory.files.asked, [shipped.digest, blob, blob, blob], "it broke twice");
    assert_eq!(memory.files.sent[&blob], content.len(), "each byte once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_broke_in_the_middle_goes_on_where_it_stopped() {
    let (coordinator, _directory, node) = node().await;
    let names: Vec<String> = (0..5000).map(|n| format!("a-directory-of-many-{n:05}/")).collect();
    let shipped = tree(&coordinator, &names.iter().map(|name| (name.as_str(), "")).collect::<Vec<_>>());
    coordinator.memory().files.cut_fetches = vec![2];
    node.paths(&container("j", 1, vec![bind("./d", true, &shipped)])).await;
    let memory = coordinator.memory();
    assert_eq!(memory.files.asked, [shipped.digest; 2], "it broke");
    assert_eq!(memory.files.sent[&shipped.digest], memory.files.blobs[&shipped.digest].len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_knows_no_offsets_sends_a_broken_blob_from_its_start() {
    let (coordinator, _directory, node) = node().await;
    let content = large();
    let shipped = tree(&coordinator, &[("large", &content)]);
    coordinator.memory().files.cut_fetches = vec![3, 99];
    coordinator.memory().files.no_offsets = true;
    let paths = node.paths(&container("j", 1, vec![bind("./d", true, &shipped)])).await;
    assert!(read(&paths[0].join("large")) == content);
    assert!(coordinator.memory().files.sent[&digest_of(content.as_bytes())] > content.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_broke_after_damage_is_not_built_upon() {
    let (coordinator, _directory, node) = node().await;
    let content = large();
    let shipped = tree(&coordinator, &[("large", &content)]);
    coordinator.memory().files.cut_fetches = vec![3, 99];
    coordinator.memory().files.damage = Some(digest_of(content.as_bytes()));
    let paths = node.paths(&container("j", 1, vec![bind("./d", true, &shipped)])).await;
    assert!(read(&paths[0].join("large")) == content);
    assert_eq!(coordinator.memory().files.damage, None, "it was damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bytes_are_fetched_again_and_never_seen() {
    let (coordinator, _directory, node) = node().await;
    let shipped = tree(&coordinator, &[("a", "A")]);
    for (n, damaged) in [shipped.digest, digest_of(b"A")].into_iter().enumerate() {
        coordinator.memory().files.damage = Some(damaged);
        let paths = node.paths(&container(&format!("j{n}"), 1, vec![bind("./d", true, &shipped)])).await;
        assert_eq!(read(&paths[0].join("a")), "A");
        assert_eq!(coordinator.memory().files.damage, None, "it was damaged");
        fs::remove_dir_all(node.state.join("cache/trees")).unwrap();
        fs::create_dir(node.state.join("cache/trees")).unwrap();
        fs::remove_file(node.files.cache().path(digest_of(b"A"))).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_the_coordinator_does_not_have_is_refused_for_good() {
    let (coordinator, _directory, node) = node().await;
    let shipped = tree(&coordinator, &[("a", "A")]);
    coordinator.memory().files.blobs.remove(&digest_of(b"A"));
    let replica = container("j", 1, vec![bind("./d", true, &shipped)]);
    let refusal = node.files.lay_out(&replica, "").await.unwrap_err();
    assert!(!refusal.retryable);
    assert!(
        refusal.message.contains("./d") && refusal.message.contains("submit the job again"),
        "{refusal:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_does_not_fit_is_refused_for_now_before_a_byte_of_it_comes() {
    let (coordinator, _directory, node) = node().await;
    let kind = Kind::File { size: 1 << 50, digest: digest_of(b"huge") };
    let manifest = Manifest { entries: vec![Entry { path: "huge".into(), mode: 0o644, kind }] };
    let shipped: TreeRef = manifest.reference();
    coordinator.memory().files.put(manifest.encode());
    let replica = container("j", 1, vec![bind("./d", false, &shipped)]);
    let refusal = node.files.lay_out(&replica, "").await.unwrap_err();
    assert!(refusal.retryable);
    for part in ["./d", "node n1", "1.0 PiB are needed", "are free"] {
        assert!(refusal.message.contains(part), "{refusal:?}");
    }
    assert_eq!(names(&node.tell.conditions), ["DiskFull"]);
    assert_eq!(coordinator.memory().files.fetched, [shipped.digest]);
    assert_eq!(node.blobs(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_fetch_tells_how_far_it_is() {
    let (coordinator, _directory, node) = node().await;
    let shipped = tree(&coordinator, &[("a", "AAAA"), ("b", "BBBB")]);
    // The manifest's two messages, then the first blob of the two.
    coordinator.memory().files.stall_fetches = Some(2);
    let replica = container("j", 1, vec![bind("./d", true, &shipped)]);
    let (files, own) = (node.files.clone(), replica.clone());
    let laying = tokio::spawn(async move { files.lay_out(&own, "").await.map_err(|r| r.message) });
    let progress = until("progress", || node.tell.progresses.of(&replica.key())).await;
    assert_eq!((progress.what.as_str(), progress.done, progress.total), ("fetches ./d", 4, 8));
    coordinator.change(|m| m.files.stall_fetches = None);
    laying.await.unwrap().unwrap();
    assert_eq!(node.tell.progresses.of(&replica.key()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_file_is_mounted_as_a_file_read_only_or_not() {
    let (coordinator, _directory, node) = node().await;
    let shipped = tree(&coordinator, &[("", "lr: 0.1")]);
    let mounts = vec![bind("./a.yaml", true, &shipped), bind("./b.yaml", false, &shipped)];
    let paths = node.paths(&container("j", 1, mounts)).await;
    assert_eq!((read(&paths[0]), read(&paths[1])), ("lr: 0.1".to_owned(), "lr: 0.1".to_owned()));
    fs::write(&paths[1], "changed").unwrap();
    assert_eq!(read(&paths[0]), "lr: 0.1", "the copy is its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_and_configs_are_readable_files_behind_a_closed_door_and_go_with_the_replica() {
    let (coordinator, _directory, node) = node().await;
    let grant = |source: &str, content| FileGrant {
        source: source.into(),
        file: Some(format!("./{source}")),
        target: None,
        content: Some(content),
    };
    let mut replica = container("j", 1, Vec::new());
    replica.spec.container.secrets = vec![grant("token", tree(&coordinator, &[("", "hush")]))];
    replica.spec.container.configs = vec![grant("conf", tree(&coordinator, &[("", "x: 1")]))];
    let mounts = node.files.lay_out(&replica, "").await.unwrap();
    let targets: Vec<_> = mounts.iter().map(|m| (m.target.as_str(), m.read_only)).collect();
    assert_eq!(targets, [("/run/secrets/token", true), ("/conf", true)]);
    let paths = support::paths(&mounts);
    assert_eq!((read(&paths[0]), read(&paths[1])), ("hush".to_owned(), "x: 1".to_owned()));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&paths[0]), mode(paths[0].parent().unwrap())), (0o444, 0o700));
    assert_eq!(node.blobs(), 0, "a secret does not stay in the cache");
    node.files.remove(&replica.key()).await.unwrap();
    assert!(!paths[0].exists());
}

fn brought_home(mount: &str, path: &str, node_rank: u32, content: &[u8]) -> Artifact {
    Artifact {
        generation: Generation(1),
        node: NodeId::new("n9").unwrap(),
        node_rank: NodeRank(node_rank),
        mount: mount.into(),
        path: path.into(),
        size: content.len() as u64,
        digest: digest_of(content),
        mode: 0o600,
        modified: Timestamp(0),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_generation_starts_from_what_the_earlier_ones_brought_home() {
    let (coordinator, _directory, node) = node().await;
    let shipped = tree(&coordinator, &[("a", "A"), ("b", "B")]);
    coordinator.change(|m| {
        for (mount, path, rank, content) in [
            ("./d", "a", 0, "A2"),
            ("./d", "new/c", 0, "C"),
            ("./d", "b", 1, "other rank's"),
            ("./e", "b", 0, "other"),
        ] {
            m.files.put(content.as_bytes().to_vec());
            m.files.artifacts.push(brought_home(mount, path, rank, content.as_bytes()).into());
        }
    });
    let volumes = || vec![bind("./d", false, &shipped), bind("./ro", true, &shipped)];
    let first = node.paths(&container("j", 1, volumes())).await;
    assert_eq!(read(&first[0].join("a")), "A", "there is nothing before the first generation");
    let second = node.paths(&container("j", 2, volumes())).await;
    let found = |path: &str| read(&second[0].join(path));
    assert_eq!((found("a"), found("b"), found("new/c")), ("A2".into(), "B".into(), "C".into()));
    assert_eq!(fs::metadata(second[0].join("a")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(read(&second[1].join("a")), "A", "what is read-only is what was shipped");
    fs::write(second[0].join("a"), "changed").unwrap();
    let again = node.paths(&container("j", 2, volumes())).await;
    assert_eq!(read(&again[0].join("a")), "A2", "a layout begins from nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replicas_removal_leaves_nothing_of_it_and_keeps_the_cache() {
    let (coordinator, _directory, node) = node().await;
    let shipped = tree(&coordinator, &[("closed/", ""), ("closed/a", "A")]);
    let replica = container("j", 1, vec![bind("./d", false, &shipped)]);
    node.paths(&replica).await;
    node.files.remove(&replica.key()).await.unwrap();
    assert_eq!(fs::read_dir(node.replica_dir(&replica)).unwrap().count(), 0);
    assert_eq!(node.blobs(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_loses_what_was_not_used_for_longest_and_nothing_that_a_replica_uses() {
    let (coordinator, directory) = (Coordinator::start().await, tempfile::tempdir().unwrap());
    let config = FilesConfig { cache_limit: Some(250), ..COPIES };
    let node = Node::new(directory.path(), &coordinator.url(), config);
    let contents = ["a", "b", "c"].map(|letter| letter.repeat(100));
    let trees = contents.each_ref().map(|content| tree(&coordinator, &[("f", content), ("shared", "s")]));
    for (n, shipped) in trees.iter().enumerate() {
        let replica = container(&format!("j{n}"), 1, vec![bind("./d", true, shipped)]);
        node.paths(&replica).await;
        if n > 0 {
            node.files.remove(&replica.key()).await.unwrap();
        }
    }
    // The oldest one is in use; of the others the second was used before the third.
    node.files.cache().tidy().await.unwrap();
    let is_here = |content: &str| node.files.cache().path(digest_of(content.as_bytes())).exists();
    assert_eq!(contents.each_ref().map(|content| is_here(content)), [true, false, true]);
    assert!(is_here("s"), "what others need stays");
    node.paths(&container("again", 1, vec![bind("./d", true, &trees[1])])).await;
    assert!(is_here(&contents[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_list_of_what_a_replica_uses_keeps_no_other_tree_in_the_cache() {
    let (coordinator, directory) = (Coordinator::start().await, tempfile::tempdir().unwrap());
    let config = FilesConfig { cache_limit: Some(0), ..COPIES };
    let node = Node::new(directory.path(), &coordinator.url(), config);
    let mut here = Vec::new();
    for content in ["used", "named by nobody"] {
        let replica = container(
            content.split(' ').next().unwrap(),
            1,
            vec![bind("./d", true, &tree(&coordinator, &[("f", content)]))],
        );
        let mounted = node.paths(&replica).await.remove(0);
        fs::write(node.replica_dir(&replica).join("files.json"), "{").unwrap();
        here.push((replica, mounted, node.files.cache().path(digest_of(content.as_bytes()))));
    }
    let record = format!("{{\"mounts\": [\"{}\"]}}", here[0].1.display());
    fs::write(node.replica_dir(&here[0].0).join("record.json"), record).unwrap();
    node.files.cache().tidy().await.unwrap();
    assert_eq!(here.iter().map(|(.., blob)| blob.exists()).collect::<Vec<_>>(), [true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_boot_only_what_was_safely_stored_is_believed() {
    let (coordinator, directory, node) = node().await;
    node.files.cache().fetch(&tree(&coordinator, &[("a", "A")]), &|_, _| {}).await.unwrap();
    let lost = tree(&coordinator, &[("a", "A"), ("b", "B"), ("c", "C")]);
    // It comes last, by its digest.
    coordinator.memory().files.blobs.remove(&digest_of(b"B"));
    node.files.cache().fetch(&lost, &|_, _| {}).await.unwrap_err();
    drop(node);
    let node = Node::new(directory.path(), &coordinator.url(), COPIES);
    assert_eq!(node.blobs(), 2, "another agent in the same boot believes A and C");
    drop(node);
    fs::write(directory.path().join("cache/boot"), "an earlier one").unwrap();
    let node = Node::new(directory.path(), &coordinator.url(), COPIES);
    assert_eq!(node.blobs(), 1, "A was stored, C was not");
}

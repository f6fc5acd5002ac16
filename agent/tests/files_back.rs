//! Files that come back, without overlays.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::time::Duration;

use convoke_agent::files::FilesConfig;
use convoke_agent::files::collect::Collector;
use convoke_agent::files::kept::Kept;
use convoke_model::{Collect, DesiredReplica};
use convoke_proto::refusal;
use support::{Coordinator, DEADLINE, Node, bind, container, names, tree, until};
use tonic::Code;

const COPIES: FilesConfig =
    FilesConfig { overlays: false, cache_limit: None, return_limit: None, keep: None, patience: None };

/// A replica whose tasks could run, with `./out` writable and `a` and `b` in it.
struct Story {
    coordinator: Coordinator,
    directory: tempfile::TempDir,
    node: Node,
    replica: DesiredReplica,
    out: PathBuf,
}

impl Story {
    async fn new(config: FilesConfig) -> Self {
        let (coordinator, directory) = (Coordinator::start().await, tempfile::tempdir().unwrap());
        let node = Node::new(directory.path(), &coordinator.url(), config);
        let shipped = tree(&coordinator, &[("a", "A"), ("b", "B"), ("l", "-> a")]);
        let replica = container("j", 1, vec![bind("./out", false, &shipped), bind("./in", true, &shipped)]);
        let out = node.paths(&replica).await.remove(0);
        Self { coordinator, directory, node, replica, out }
    }

    fn collector(&self) -> Option<Collector> {
        Collector::open(&self.node.files, &self.replica)
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.out.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn is_owed(&self) -> bool {
        self.node.replica_dir(&self.replica).join("files-owed.json").exists()
    }

    /// What came back, by path below `./out`.
    fn back(&self) -> BTreeMap<String, String> {
        let back = self.coordinator.memory().files.back();
        let text = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        back.iter().map(|((mount, path), content)| (format!("{mount}/{path}"), text(content))).collect()
    }
}

async fn drained(collector: &Collector) {
    tokio::time::timeout(DEADLINE, collector.drain()).await.expect("it does not drain");
}

fn expected(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    files.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_back_while_the_tasks_run_and_again_when_it_changes() {
    let story = Story::new(COPIES).await;
    let _collector = story.collector().unwrap();
    story.write("ckpt/1.pt", "weights");
    fs::set_permissions(story.out.join("ckpt/1.pt"), fs::Permissions::from_mode(0o640)).unwrap();
    let first = story.coordinator.wait("the file", |m| m.files.artifacts.first().cloned()).await;
    assert_eq!((first.mount.as_str(), first.path.as_str(), first.size), ("./out", "ckpt/1.pt", 7));
    assert_eq!((first.mode, first.generation, first.node_rank), (0o640, 1, 0));
    assert!(first.modified_unix_ms > 1_500_000_000_000);
    story.write("ckpt/1.pt", "better weights");
    story.coordinator.wait("the change", |m| (m.files.artifacts.len() == 2).then_some(())).await;
    assert_eq!(story.back(), expected(&[("./out/ckpt/1.pt", "better weights")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_all_that_differs_comes_back_and_nothing_else() {
    let story = Story::new(COPIES).await;
    let collector = story.collector().unwrap();
    story.write("a", "changed");
    story.write("b", "B");
    story.write("deep/er/new", "new");
    let mut open = File::create(story.out.join("still open")).unwrap();
    open.write_all(b"half").unwrap();
    symlink("a", story.out.join("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(story.out.join("socket")).unwrap();
    drained(&collector).await;
    assert_eq!(
        story.back(),
        expected(&[("./out/a", "changed"), ("./out/deep/er/new", "new"), ("./out/still open", "half")])
    );
    let warnings = story.node.tell.warnings.list();
    assert_eq!(names(&story.node.tell.warnings), ["OddFiles"]);
    assert!(warnings[0].message.starts_with("2 links, FIFOs, sockets or devices"), "{warnings:?}");
    assert!(warnings[0].message.contains("./out/link, ./out/socket"), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_changed_nothing_is_sent_and_deletions_stay() {
    let story = Story::new(COPIES).await;
    let collector = story.collector().unwrap();
    fs::remove_file(story.out.join("a")).unwrap();
    drained(&collector).await;
    assert_eq!(story.coordinator.memory().files.reports, 0);
    let journal = fs::read_to_string(story.node.replica_dir(&story.replica).join("collected.jsonl")).unwrap();
    assert_eq!(journal.lines().count(), 2, "what was laid out is not even read: {journal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_node_rank_zeros_files_come_back_unless_all_are_asked_for() {
    let mut story = Story::new(COPIES).await;
    story.replica.placement.node_rank.0 = 1;
    story.node.paths(&story.replica).await;
    assert!(story.collector().is_none());
    story.replica.spec.collect = Collect::All;
    assert!(story.collector().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_writable_mounts_nothing_is_looked_through() {
    let mut story = Story::new(COPIES).await;
    for mount in &mut story.replica.spec.container.volumes {
        mount.read_only = true;
    }
    story.node.paths(&story.replica).await;
    assert!(story.collector().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_refuses_for_now_gets_everything_later() {
    let story = Story::new(COPIES).await;
    let away = || Some(refusal(Code::Unavailable, "SHUTTING_DOWN", "come back later"));
    story.coordinator.change(|m| m.files.refuse_report = away());
    let collector = story.collector().unwrap();
    story.write("new", "new");
    let mut drain = Box::pin(drained(&collector));
    tokio::select! {
        () = &mut drain => panic!("it drained into nothing"),
        () = story.coordinator.wait("two tries", |m| (m.files.reports >= 2).then_some(())) => {}
    }
    story.coordinator.change(|m| m.files.refuse_report = None);
    drain.await;
    assert_eq!(story.back(), expected(&[("./out/new", "new")]));
    assert_eq!(story.coordinator.memory().files.uploaded.len(), 1, "its bytes were there already");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_generations_files_stay_after_one_try() {
    let story = Story::new(COPIES).await;
    let stale = refusal(Code::FailedPrecondition, "STALE_GENERATION", "generation 2 is current");
    story.coordinator.change(|m| m.files.refuse_report = Some(stale));
    let collector = story.collector().unwrap();
    story.write("new", "new");
    drained(&collector).await;
    assert_eq!(story.coordinator.memory().files.reports, 1);
    assert!(story.is_owed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exceeds_the_limit_stays_and_is_told_with_the_way_out() {
    let story = Story::new(FilesConfig { return_limit: Some(10), ..COPIES }).await;
    let collector = story.collector().unwrap();
    story.write("large", "more than ten");
    story.write("small", "small");
    drained(&collector).await;
    assert_eq!(story.back(), expected(&[("./out/small", "small")]));
    let warnings = story.node.tell.warnings.list();
    assert_eq!(warnings[0].name, "FilesNotReturned");
    for part in ["large", "--return-limit", "node n1"] {
        assert!(warnings[0].message.contains(part), "{warnings:?}");
    }
    assert!(story.out.join("large").exists() && story.is_owed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_not_read_and_goes_with_a_larger_limit() {
    let mut story = Story::new(FilesConfig { return_limit: Some(10), ..COPIES }).await;
    // Hashing it would take hours.
    File::create(story.out.join("sparse")).unwrap().set_len(8 << 40).unwrap();
    story.write("large", "more than ten");
    let collector = story.collector().unwrap();
    drained(&collector).await;
    let warnings = story.node.tell.warnings.list();
    assert!(warnings[0].message.starts_with("2 files with 8.0 TiB do not come back"), "{warnings:?}");
    fs::remove_file(story.out.join("sparse")).unwrap();
    drop(collector);
    drop(story.node);
    story.node = Node::again(story.directory.path(), &story.coordinator.url(), COPIES).await;
    drained(&story.collector().unwrap()).await;
    assert_eq!(story.back(), expected(&[("./out/large", "more than ten")]));
    assert!(!story.is_owed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_lets_the_end_be_told_and_the_files_go_on_when_there_is_room() {
    let story = Story::new(FilesConfig { patience: Some(Duration::from_millis(50)), ..COPIES }).await;
    let full = refusal(Code::ResourceExhausted, "DISK_FULL", "the disk is full");
    story.coordinator.change(|m| m.files.refuse_upload = Some(full));
    let collector = story.collector().unwrap();
    story.write("model", "weights");
    drained(&collector).await;
    let warnings = story.node.tell.warnings.list();
    assert_eq!(warnings[0].name, "ReturningFiles");
    let place = story.node.replica_dir(&story.replica).join("mounts").display().to_string();
    for part in ["the disk is full", "node n1", "convoke pull", &place] {
        assert!(warnings[0].message.contains(part), "{warnings:?}");
    }
    assert!(story.back().is_empty() && story.is_owed());
    story.coordinator.change(|m| m.files.refuse_upload = None);
    story.coordinator.wait("the file", |m| m.files.artifacts.first().cloned()).await;
    until("nothing to be owed", || (!story.is_owed()).then_some(())).await;
    until("nothing to be told", || names(&story.node.tell.warnings).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_there_is_no_room_for_does_not_keep_smaller_ones() {
    let story = Story::new(FilesConfig { patience: Some(Duration::from_millis(50)), ..COPIES }).await;
    story.coordinator.change(|m| m.files.room = Some(5));
    let collector = story.collector().unwrap();
    story.write("large", "more than five");
    story.write("small", "small");
    drained(&collector).await;
    story.coordinator.wait("the small one", |m| m.files.artifacts.first().cloned()).await;
    assert_eq!(story.back(), expected(&[("./out/small", "small")]));
    story.coordinator.change(|m| m.files.room = None);
    until("nothing to be owed", || (!story.is_owed()).then_some(())).await;
    assert_eq!(story.back(), expected(&[("./out/small", "small"), ("./out/large", "more than five")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_jobs_files_stay_and_are_not_sent_again_and_again() {
    let story = Story::new(COPIES).await;
    let unknown = refusal(Code::NotFound, "UNKNOWN_JOB", "there is no job j");
    story.coordinator.change(|m| m.files.refuse_report = Some(unknown));
    let collector = story.collector().unwrap();
    story.write("new", "new");
    drained(&collector).await;
    assert_eq!(story.coordinator.memory().files.reports, 1);
    assert_eq!(names(&story.node.tell.warnings), ["FilesNotReturned"]);
    assert!(story.is_owed() && story.out.join("new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_refused_does_not_keep_the_others() {
    let story = Story::new(COPIES).await;
    story.coordinator.change(|m| m.files.refuse_path = Some("bad".into()));
    let collector = story.collector().unwrap();
    for path in ["good", "bad", "better"] {
        story.write(path, path);
    }
    drained(&collector).await;
    assert_eq!(story.back(), expected(&[("./out/good", "good"), ("./out/better", "better")]));
    let warnings = story.node.tell.warnings.list();
    assert!(
        warnings[0].message.contains("bad") && warnings[0].message.contains("not that one"),
        "{warnings:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_agent_sends_what_is_new_and_nothing_twice() {
    let mut story = Story::new(COPIES).await;
    let collector = story.collector().unwrap();
    story.write("one", "1");
    let journal = story.node.replica_dir(&story.replica).join("collected.jsonl");
    until("it to be noted", || fs::read_to_string(&journal).ok()?.contains("\"one\"").then_some(())).await;
    drop(collector);
    drop(story.node);
    story.node = Node::again(story.directory.path(), &story.coordinator.url(), COPIES).await;
    story.write("two", "2");
    story.write("b", "changed");
    let collector = story.collector().unwrap();
    drained(&collector).await;
    let back = [("./out/one", "1"), ("./out/two", "2"), ("./out/b", "changed")];
    assert_eq!(story.back(), expected(&back));
    assert_eq!(story.coordinator.memory().files.artifacts.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_file_comes_back_under_the_mounts_own_name() {
    let mut story = Story::new(COPIES).await;
    let shipped = tree(&story.coordinator, &[("", "lr: 0.1")]);
    story.replica = container("k", 1, vec![bind("./conf.yaml", false, &shipped)]);
    story.out = story.node.paths(&story.replica).await.remove(0);
    let collector = story.collector().unwrap();
    fs::write(&story.out, "lr: 0.2").unwrap();
    drained(&collector).await;
    assert_eq!(story.back(), expected(&[("./conf.yaml/", "lr: 0.2")]));
}

/// Its tasks have written `model`, it has ended and it goes while the coordinator's disk is full.
async fn gone_with_a_full_disk(config: FilesConfig) -> (Story, Collector) {
    let story = Story::new(FilesConfig { patience: Some(Duration::from_millis(50)), ..config }).await;
    let full = refusal(Code::ResourceExhausted, "DISK_FULL", "the disk is full");
    story.coordinator.change(|m| m.files.refuse_upload = Some(full));
    let collector = story.collector().unwrap();
    story.write("model", "weights");
    drained(&collector).await;
    assert!(story.node.files.keep(&story.replica.key()).await.unwrap());
    (story, collector)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_home_outlives_its_replica_and_its_agent_until_it_is() {
    let (mut story, collector) = gone_with_a_full_disk(COPIES).await;
    let (key, directory) = (story.replica.key(), story.node.replica_dir(&story.replica));
    drop(collector);
    drop(story.node);
    story.node = Node::again(story.directory.path(), &story.coordinator.url(), COPIES).await;
    story.node.files.sweep(&Default::default());
    assert_eq!(story.node.files.kept(), [key.clone()].into());
    assert!(story.node.files.lay_out(&story.replica, "").await.is_err(), "nothing takes its place");
    story.coordinator.change(|m| m.files.refuse_upload = None);
    assert_eq!(story.node.files.clone().see_off(key, None).await, Kept::Home);
    assert_eq!(story.back(), expected(&[("./out/model", "weights")]));
    assert!(!directory.exists() && story.node.files.kept().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_too_long_is_given_up_by_name() {
    let config = FilesConfig { keep: Some(Duration::ZERO), ..COPIES };
    let (story, collector) = gone_with_a_full_disk(config).await;
    let directory = story.node.replica_dir(&story.replica);
    let kept = story.node.files.clone().see_off(story.replica.key(), Some(collector)).await;
    assert_eq!((kept, directory.exists()), (Kept::GivenUp, false));
    let warnings = story.node.tell.warnings.list();
    assert_eq!(names(&story.node.tell.warnings), ["FilesGivenUp"]);
    for part in ["j generation 1", &directory.display().to_string(), "--keep-files", "node n1"] {
        assert!(warnings[0].message.contains(part), "{warnings:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_owes_nothing_is_not_kept() {
    let story = Story::new(COPIES).await;
    let collector = story.collector().unwrap();
    story.write("model", "weights");
    drained(&collector).await;
    assert!(!story.node.files.keep(&story.replica.key()).await.unwrap());
    assert!(story.out.exists(), "that is for the removal");
}

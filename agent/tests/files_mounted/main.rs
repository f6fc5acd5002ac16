//! Files that travel, with overlays, owners and full disks: what only root can do. Elsewhere these tests are
//! reported as ignored, under a name that says what is missing.

#![allow(clippy::unwrap_used, reason = "tests")]

mod killed;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use convoke_agent::files::FilesConfig;
use convoke_agent::files::collect::Collector;
use killed::{
    an_agent_killed_while_collecting_loses_nothing, an_agent_killed_while_fetching_goes_on_where_it_was,
    an_agent_killed_while_laying_out_leaves_nothing_that_counts,
};
use libtest_mimic::{Arguments, Failed, Trial};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use support::{Coordinator, DEADLINE, Node, bind, container, digest_of, names, tree, until};

type Story = fn() -> futures::future::BoxFuture<'static, ()>;

macro_rules! stories {
    ($($name:ident),* $(,)?) => {
        &[$((stringify!($name), || Box::pin($name()))),*]
    };
}

const STORIES: &[(&str, Story)] = stories![
    a_writable_mount_is_an_overlay_whose_upper_directory_is_what_changed,
    what_is_moved_or_only_touched_below_an_overlay_comes_back_whole_or_not_at_all,
    a_single_file_below_an_overlay_can_be_written,
    files_are_the_jobs_users_with_the_submitters_bits,
    mounts_of_replicas_without_a_record_are_swept_and_others_are_not,
    a_disk_that_fills_up_meanwhile_gives_back_what_was_brought,
    an_agent_killed_while_fetching_goes_on_where_it_was,
    an_agent_killed_while_laying_out_leaves_nothing_that_counts,
    an_agent_killed_while_collecting_loses_nothing,
];

fn main() -> ExitCode {
    if let Ok(orders) = std::env::var(killed::VICTIM) {
        std::thread::spawn(|| {
            // Its other end is the test's: when that is gone, so is this.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(1);
        });
        block_on(killed::victim(&orders));
    }
    let args = Arguments::from_args();
    let missing = obstacle();
    let trial = |(name, story): &(&str, Story)| match &missing {
        None => {
            let story = *story;
            Trial::test(*name, move || {
                block_on(story());
                Ok::<(), Failed>(())
            })
        }
        Some(missing) => {
            Trial::test(format!("{name} (not run: {missing})"), || Ok(())).with_ignored_flag(true)
        }
    };
    libtest_mimic::run(&args, STORIES.iter().map(trial).collect()).exit_code()
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(future);
}

/// Why these tests cannot be run here.
fn obstacle() -> Option<String> {
    let place = tempfile::tempdir().unwrap();
    if let Err(error) = mount("none", place.path(), "tmpfs", MountFlags::empty(), None) {
        return Some(format!("mounting is not allowed here: {error}"));
    }
    unmount(place.path(), UnmountFlags::DETACH).unwrap();
    None
}

/// A state directory; whatever is mounted in it goes with it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for point in mounted_in(self.path()).iter().rev() {
            let _ = unmount(point, UnmountFlags::DETACH);
        }
    }
}

fn mounted_in(directory: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(directory)).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

async fn drained(collector: &Collector) {
    tokio::time::timeout(DEADLINE, collector.drain()).await.expect("it does not drain");
}

/// What came back, by path.
fn back(coordinator: &Coordinator) -> Vec<(String, String)> {
    let back = coordinator.memory().files.back();
    back.into_iter()
        .map(|((_, path), content)| (path, String::from_utf8(content.to_vec()).unwrap()))
        .collect()
}

fn pairs(files: &[(&str, &str)]) -> Vec<(String, String)> {
    files.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect()
}

async fn a_writable_mount_is_an_overlay_whose_upper_directory_is_what_changed() {
    let (coordinator, place) = (Coordinator::start().await, Place::new());
    let node = Node::new(place.path(), &coordinator.url(), FilesConfig::default());
    let shipped = tree(&coordinator, &[("a", "A"), ("b", "B"), ("d/", ""), ("d/c", "C")]);
    let replica = container("j", 1, vec![bind("./out", false, &shipped), bind("./in", true, &shipped)]);
    let paths = node.paths(&replica).await;
    assert_eq!(mounted_in(&node.state), [paths[0].clone()]);
    let collector = Collector::open(&node.files, &replica).unwrap();
    fs::write(paths[0].join("a"), "changed").unwrap();
    fs::write(paths[0].join("d/new"), "new").unwrap();
    fs::remove_file(paths[0].join("b")).unwrap();
    assert_eq!(read(&paths[1].join("a")), "A", "the shared tree is as it was");
    assert_eq!(read(&node.files.cache().path(digest_of(b"A"))), "A");
    drained(&collector).await;
    assert_eq!(back(&coordinator), pairs(&[("a", "changed"), ("d/new", "new")]));
    node.files.remove(&replica.key()).await.unwrap();
    assert!(mounted_in(&node.state).is_empty());
    assert_eq!(read(&paths[1].join("b")), "B");
}

async fn what_is_moved_or_only_touched_below_an_overlay_comes_back_whole_or_not_at_all() {
    let (coordinator, place) = (Coordinator::start().await, Place::new());
    let node = Node::new(place.path(), &coordinator.url(), FilesConfig::default());
    let shipped = tree(&coordinator, &[("d/", ""), ("d/c", "C"), ("moved", "M"), ("touched", "T")]);
    let replica = container("j", 1, vec![bind("./out", false, &shipped)]);
    let out = node.paths(&replica).await.remove(0);
    let collector = Collector::open(&node.files, &replica).unwrap();
    let run = |program: &str, args: [&str; 2]| {
        assert!(Command::new(program).args(args).current_dir(&out).status().unwrap().success());
    };
    run("touch", ["-m", "touched"]);
    run("mv", ["d", "e"]);
    run("mv", ["moved", "elsewhere"]);
    drained(&collector).await;
    assert_eq!(back(&coordinator), pairs(&[("e/c", "C"), ("elsewhere", "M")]));
}

async fn a_single_file_below_an_overlay_can_be_written() {
    let (coordinator, place) = (Coordinator::start().await, Place::new());
    let node = Node::new(place.path(), &coordinator.url(), FilesConfig::default());
    let shipped = tree(&coordinator, &[("", "lr: 0.1")]);
    let replica = container("j", 1, vec![bind("./conf.yaml", false, &shipped)]);
    let path = node.paths(&replica).await.remove(0);
    // As the engine does: the file itself is mounted.
    let target = place.path().join("in-the-container");
    File::create(&target).unwrap();
    rustix::mount::mount_bind(&path, &target).unwrap();
    let collector = Collector::open(&node.files, &replica).unwrap();
    fs::write(&target, "lr: 0.2").unwrap();
    drained(&collector).await;
    assert_eq!(back(&coordinator), pairs(&[("", "lr: 0.2")]));
}

async fn files_are_the_jobs_users_with_the_submitters_bits() {
    let (coordinator, place) = (Coordinator::start().await, Place::new());
    let shipped = tree(&coordinator, &[("d/", ""), ("d/a", "A"), ("l", "-> d")]);
    for overlays in [true, false] {
        let state = place.path().join(overlays.to_string());
        let node = Node::new(&state, &coordinator.url(), FilesConfig { overlays, ..FilesConfig::default() });
        let mut replica =
            container("j", 1, vec![bind("./out", false, &shipped), bind("./in", true, &shipped)]);
        node.paths(&replica).await;
        // By the image, then by the job.
        let of_image = node.files.lay_out(&replica, "1234:5678").await.unwrap();
        let metadata = fs::metadata(&support::paths(&of_image)[0]).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (1234, 5678));
        replica.spec.container.user = Some("1234:5678".into());
        let paths = support::paths(&node.files.lay_out(&replica, "77:77").await.unwrap());
        for (root, path) in paths.iter().flat_map(|root| ["", "d", "d/a", "l"].map(|path| (root, path))) {
            let metadata = fs::symlink_metadata(root.join(path)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (1234, 5678), "{overlays} {path}");
        }
        assert_eq!(fs::metadata(paths[0].join("d/a")).unwrap().mode() & 0o7777, 0o644);
        let written = Command::new("setpriv")
            .args([
                "--reuid=1234",
                "--regid=5678",
                "--clear-groups",
                "/bin/sh",
                "-c",
                "echo x > /proc/self/fd/0/new",
            ])
            .stdin(File::open(paths[0].join("d")).unwrap())
            .status();
        assert!(written.unwrap().success(), "{overlays}: the user can write there");
        assert_eq!(fs::metadata(node.files.cache().path(digest_of(b"A"))).unwrap().uid(), 0);
        node.files.remove(&replica.key()).await.unwrap();
    }
}

async fn mounts_of_replicas_without_a_record_are_swept_and_others_are_not() {
    let (coordinator, place) = (Coordinator::start().await, Place::new());
    let shipped = tree(&coordinator, &[("a", "A")]);
    let replicas =
        ["gone", "recorded", "running"].map(|job| container(job, 1, vec![bind("./out", false, &shipped)]));
    let node = Node::new(place.path(), &coordinator.url(), FilesConfig::default());
    for replica in &replicas {
        node.paths(replica).await;
    }
    fs::write(node.replica_dir(&replicas[1]).join("record.json"), "{}").unwrap();
    drop(node);
    let node = Node::again(place.path(), &coordinator.url(), FilesConfig::default()).await;
    assert_eq!(mounted_in(&node.state).len(), 3, "mounts outlive an agent");
    node.files.sweep(&BTreeSet::from([replicas[2].key()]));
    assert!(!node.replica_dir(&replicas[0]).exists());
    let left: Vec<bool> = replicas
        .iter()
        .map(|replica| {
            mounted_in(&node.state).iter().any(|point| point.starts_with(node.replica_dir(replica)))
        })
        .collect();
    assert_eq!(left, [false, true, true]);
}

async fn a_disk_that_fills_up_meanwhile_gives_back_what_was_brought() {
    let (coordinator, place) = (Coordinator::start().await, Place::new());
    let options = std::ffi::CString::new("size=16m").unwrap();
    mount("none", place.path(), "tmpfs", MountFlags::empty(), Some(options.as_c_str())).unwrap();
    let node = Node::new(place.path(), &coordinator.url(), FilesConfig::default());
    let contents: Vec<(String, String)> =
        (0..8).map(|n| (format!("f{n}"), n.to_string().repeat(1 << 20))).collect();
    let entries: Vec<(&str, &str)> = contents.iter().map(|(p, c)| (p.as_str(), c.as_str())).collect();
    let small = tree(&coordinator, &[("kept", "kept")]);
    node.paths(&container("other", 1, vec![bind("./d", true, &small)])).await;
    let large = tree(&coordinator, &entries);
    // Once there is room for all of it, and some of it is here, somebody else takes the rest.
    coordinator.change(|m| m.files.stall_fetches = Some(12));
    let replica = container("j", 1, vec![bind("./d", false, &large)]);
    let (files, own) = (node.files.clone(), replica.clone());
    let laying = tokio::spawn(async move { files.lay_out(&own, "").await });
    until("some blobs", || (node.blobs() >= 3).then_some(())).await;
    let ballast = place.path().join("ballast");
    fs::write(&ballast, vec![1; 32 << 20]).unwrap_err();
    coordinator.change(|m| m.files.stall_fetches = None);
    let refusal = laying.await.unwrap().unwrap_err();
    assert!(refusal.retryable);
    assert!(refusal.message.contains("node n1") && refusal.message.contains("is full"), "{refusal:?}");
    assert_eq!(names(&node.tell.conditions), ["DiskFull"]);
    assert_eq!(node.blobs(), 1, "what others have stays");
    let left = fs::read_dir(node.state.join("cache/tmp")).unwrap().count();
    assert_eq!((left, fs::read_dir(node.replica_dir(&replica)).map_or(0, Iterator::count)), (0, 0));
    fs::remove_file(&ballast).unwrap();
    let paths = node.paths(&replica).await;
    assert_eq!(read(&paths[0].join("f7")), contents[7].1);
}

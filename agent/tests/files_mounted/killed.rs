//! The agent's death: a *victim* is this very program, told by its environment to lay a replica out and to collect
//! what it writes, until it is killed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use convoke_agent::files::FilesConfig;
use convoke_agent::files::collect::Collector;
use convoke_model::DesiredReplica;

use super::support::{Coordinator, Memory, Node, bind, container, digest_of, tree, until};
use super::{Place, back, drained, mounted_in, read};

/// Set for a victim: the coordinator's address, its state directory and the replica, as JSON.
pub(super) const VICTIM: &str = "CONVOKE_TEST_VICTIM";

/// A process of its own.
struct Victim(Child);

impl Victim {
    fn start(coordinator: &Coordinator, place: &Place, replica: &DesiredReplica) -> Self {
        let orders =
            serde_json::json!({ "url": coordinator.url(), "state": place.path(), "replica": replica });
        let own = std::env::current_exe().unwrap();
        Self(Command::new(own).env(VICTIM, orders.to_string()).stdin(Stdio::piped()).spawn().unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lays out unless that is done, then collects until it is killed.
pub(super) async fn victim(orders: &str) {
    let orders: serde_json::Value = serde_json::from_str(orders).unwrap();
    let replica: DesiredReplica = serde_json::from_value(orders["replica"].clone()).unwrap();
    let state = Path::new(orders["state"].as_str().unwrap());
    let node = Node::again(state, orders["url"].as_str().unwrap(), FilesConfig::default()).await;
    let done = node.state.join("laid out");
    if !done.exists() {
        node.paths(&replica).await;
        fs::write(done, "").unwrap();
    }
    let _collector = Collector::open(&node.files, &replica);
    std::future::pending::<()>().await;
}

pub(super) async fn an_agent_killed_while_fetching_goes_on_where_it_was() {
    let (coordinator, place) = (Coordinator::start().await, Place::new());
    let contents: Vec<(String, String)> =
        (0..40).map(|n| (format!("f{n:02}"), format!("{n:02}").repeat(1 << 18))).collect();
    let entries: Vec<(&str, &str)> = contents.iter().map(|(p, c)| (p.as_str(), c.as_str())).collect();
    let shipped = tree(&coordinator, &entries);
    let replica = container("j", 1, vec![bind("./d", false, &shipped)]);
    coordinator.change(|m| m.files.stall_fetches = Some(17));
    let victim = Victim::start(&coordinator, &place, &replica);
    let arrived = || {
        let directories = fs::read_dir(place.path().join("cache/blobs")).ok()?;
        let count: usize = directories.map(|d| fs::read_dir(d.unwrap().path()).unwrap().count()).sum();
        (count >= 5).then_some(count)
    };
    until("some blobs", arrived).await;
    victim.kill();
    coordinator.change(|m| {
        m.files.stall_fetches = None;
        m.files.asked.clear();
    });
    let arrived = arrived().unwrap();
    let node = Node::again(place.path(), &coordinator.url(), FilesConfig::default()).await;
    assert_eq!(fs::read_dir(node.state.join("cache/tmp")).unwrap().count(), 0, "half a blob is nothing");
    let paths = node.paths(&replica).await;
    for (path, content) in &entries {
        assert_eq!(read(&paths[0].join(path)), *content);
    }
    assert_eq!(coordinator.memory().files.asked.len(), 40 - arrived, "and not the manifest");
}

pub(super) async fn an_agent_killed_while_laying_out_leaves_nothing_that_counts() {
    let (coordinator, place) = (Coordinator::start().await, Place::new());
    let paths: Vec<String> = (0..20_000).map(|n| format!("f{n:05}")).collect();
    let entries: Vec<(&str, &str)> = paths.iter().map(|path| (path.as_str(), "same")).collect();
    let shipped = tree(&coordinator, &entries);
    let replica = container("j", 1, vec![bind("./d", false, &shipped)]);
    let victim = Victim::start(&coordinator, &place, &replica);
    let half = || {
        let made = fs::read_dir(place.path().join("cache/tmp")).ok()?.next()?.ok()?.path().join("tree");
        (fs::read_dir(made).ok()?.take(100).count() == 100).then_some(())
    };
    until("half a tree", half).await;
    victim.kill();
    assert!(!place.path().join("laid out").exists(), "it was killed in the middle");
    let node = Node::again(place.path(), &coordinator.url(), FilesConfig::default()).await;
    assert_eq!(fs::read_dir(node.state.join("cache/tmp")).unwrap().count(), 0);
    let root = node.paths(&replica).await.remove(0);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 20_000);
    node.files.remove(&replica.key()).await.unwrap();
    assert!(mounted_in(&node.state).is_empty());
}

pub(super) async fn an_agent_killed_while_collecting_loses_nothing() {
    let (coordinator, place) = (Coordinator::start().await, Place::new());
    let shipped = tree(&coordinator, &[("a", "A")]);
    let replica = container("j", 1, vec![bind("./out", false, &shipped)]);
    let mut victim = Victim::start(&coordinator, &place, &replica);
    until("the layout", || place.path().join("laid out").exists().then_some(())).await;
    let out = mounted_in(&place.path().canonicalize().unwrap()).remove(0);
    for n in 0..5 {
        fs::write(out.join(format!("ckpt-{n}")), format!("weights {n}")).unwrap();
        let came = format!("ckpt-{n}");
        coordinator.wait(&came, |m| m.files.artifacts.iter().any(|a| a.path == came).then_some(())).await;
        // What is written while nobody looks is found.
        victim.kill();
        fs::write(out.join(format!("unseen-{n}")), "here").unwrap();
        fs::write(out.join("a"), format!("changed {n}")).unwrap();
        victim = Victim::start(&coordinator, &place, &replica);
    }
    let changed = |m: &Memory| m.files.artifacts.iter().filter(|a| a.path == "unseen-4").count();
    coordinator.wait("the last one", |m| (changed(m) > 0).then_some(())).await;
    victim.kill();
    let node = Node::again(place.path(), &coordinator.url(), FilesConfig::default()).await;
    let collector = Collector::open(&node.files, &replica).unwrap();
    drained(&collector).await;
    let back: Vec<String> =
        back(&coordinator).into_iter().map(|(path, content)| format!("{path}={content}")).collect();
    let mut expected = vec!["a=changed 4".to_owned()];
    expected.extend((0..5).map(|n| format!("ckpt-{n}=weights {n}")));
    expected.extend((0..5).map(|n| format!("unseen-{n}=here")));
    assert_eq!(back, expected);
    let files = &coordinator.memory().files;
    let twice = files.uploaded.iter().filter(|digest| **digest == digest_of(b"weights 0")).count();
    assert_eq!(twice, 1, "what the coordinator has is not sent again");
}

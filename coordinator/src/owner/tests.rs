use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use convoke_core::Config;
use convoke_model::{ClusterId, NodeInfo};

use super::*;
use crate::ledger::open_on;

fn start(dir: &Path, full: &Arc<AtomicBool>) -> (Owner, JoinHandle<()>) {
    let (ledger, replay) = open_on(&dir.join("ledger.redb"), full.clone());
    let (outlets, _garbage) = Outlets::new();
    let cluster = ClusterId::new("c").unwrap();
    let prepared = OwnerThread::prepare(Config::default(), ledger, replay, outlets, cluster).unwrap();
    prepared.snapshot_every(4).start().unwrap()
}

async fn stop((owner, thread): (Owner, JoinHandle<()>)) {
    owner.stop().await;
    tokio::task::spawn_blocking(|| thread.join()).await.unwrap().unwrap();
}

fn hello(node: &str) -> Event {
    let info = NodeInfo {
        id: NodeId::new(node).unwrap(),
        hostname: node.to_owned(),
        labels: Default::default(),
        addresses: Vec::new(),
        devices: Vec::new(),
        runtimes: Vec::new(),
        agent_version: String::new(),
        gpu_injection: None,
        engine: None,
        gpu_driver: None,
    };
    Event::NodeHello { info, instance: AgentInstance::new(node).unwrap(), cluster: None }
}

async fn nodes(owner: &Owner) -> Vec<String> {
    owner.read(|core, _| core.state().nodes.keys().map(ToString::to_string).collect()).await.unwrap()
}

#[tokio::test]
async fn memory_is_never_ahead_of_a_ledger_whose_disk_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let running = start(dir.path(), &full);
    running.0.decide(hello("n1")).await.unwrap();
    full.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let refused = running.0.decide(hello("n2")).await.unwrap_err();
        assert!(matches!(refused, Refused::Ledger(LedgerError::DiskFull { .. })), "{refused}");
    }
    assert_eq!(nodes(&running.0).await, ["n1"]);
    full.store(false, Ordering::SeqCst);
    assert_eq!(running.0.decide(hello("n3")).await.unwrap(), Accepted::Changed);
    assert_eq!(nodes(&running.0).await, ["n1", "n3"]);
    stop(running).await;
    let running = start(dir.path(), &full);
    assert_eq!(nodes(&running.0).await, ["n1", "n3"]);
    stop(running).await;
}

#[tokio::test]
async fn a_start_from_snapshot_and_later_changes_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let names: Vec<String> = (0..10).map(|n| format!("n{n}")).collect();
    let running = start(dir.path(), &full);
    for name in &names {
        running.0.decide(hello(name)).await.unwrap();
    }
    let before = running.0.read(|core, _| core.state().clone()).await.unwrap();
    stop(running).await;
    let (ledger, replay) = open_on(&dir.path().join("ledger.redb"), full.clone());
    assert!(replay.snapshot.is_some() && replay.changes.len() < 4, "{}", replay.changes.len());
    drop(ledger);
    let running = start(dir.path(), &full);
    let mut after = running.0.read(|core, _| core.state().clone()).await.unwrap();
    assert_eq!(after.epoch.0, before.epoch.0 + 1);
    (after.epoch, after.revision) = (before.epoch, before.revision);
    assert_eq!(after, before);
    stop(running).await;
}

#[tokio::test]
async fn the_time_in_which_the_owner_stood_still_is_not_held_against_a_node() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, replay) = crate::ledger::Ledger::open(&dir.path().join("ledger.redb"), 10).unwrap();
    let (outlets, _garbage) = Outlets::new();
    let window = Duration::from_millis(500);
    let config = Config { lease: Duration::from_millis(30), reconnect_window: window, ..Config::default() };
    let cluster = ClusterId::new("c").unwrap();
    let running = OwnerThread::prepare(config, ledger, replay, outlets, cluster).unwrap().start().unwrap();
    running.0.decide(hello("n1")).await.unwrap();
    // Longer than the window that any start has.
    let (_never, nothing) = std::sync::mpsc::channel::<()>();
    let stood = running.0.read(move |_, _| nothing.recv_timeout(window * 2)).await.unwrap();
    assert_eq!(stood, Err(std::sync::mpsc::RecvTimeoutError::Timeout));
    let state = running.0.read(|core, now| core.nodes(now)[0].state).await.unwrap();
    assert_eq!(state, convoke_model::NodeState::Suspect);
    stop(running).await;
}

use std::sync::atomic::{AtomicBool, Ordering};

use convoke_model::{EventLevel, Timestamp};
use redb::Database;

use super::*;

fn event(message: &str) -> EventRecord {
    EventRecord {
        at: Timestamp(1),
        level: EventLevel::Info,
        kind: "Test".to_owned(),
        job: None,
        job_name: None,
        generation: None,
        node: None,
        message: message.to_owned(),
    }
}

fn open(dir: &Path) -> (Ledger, Replay) {
    Ledger::open(&dir.join("ledger.redb"), 100).unwrap()
}

#[test]
fn what_was_committed_is_replayed_in_order_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ledger, replay) = open(dir.path());
    assert!(replay.snapshot.is_none() && replay.changes.is_empty());
    ledger.commit(b"one", &[event("a")]).unwrap();
    ledger.commit(b"two", &[]).unwrap();
    drop(ledger);
    let (_, replay) = open(dir.path());
    assert_eq!(replay.changes, [b"one".to_vec(), b"two".to_vec()]);
}

#[test]
fn a_snapshot_replaces_the_changes_before_it_and_positions_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ledger, _) = open(dir.path());
    ledger.commit(b"one", &[]).unwrap();
    ledger.snapshot(b"state one").unwrap();
    ledger.commit(b"two", &[]).unwrap();
    assert_eq!(ledger.since_snapshot(), 1);
    drop(ledger);
    let (mut ledger, replay) = open(dir.path());
    assert_eq!(replay.snapshot.as_deref(), Some(b"state one".as_slice()));
    assert_eq!(replay.changes, [b"two".to_vec()]);
    ledger.snapshot(b"state two").unwrap();
    drop(ledger);
    let (_, replay) = open(dir.path());
    assert_eq!(replay.snapshot.as_deref(), Some(b"state two".as_slice()));
    assert!(replay.changes.is_empty());
}

#[test]
fn the_history_is_bounded_and_its_numbers_go_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let (mut ledger, _) = Ledger::open(&path, 2).unwrap();
    ledger.commit(b"{}", &[event("1"), event("2"), event("3")]).unwrap();
    drop(ledger);
    let (mut ledger, _) = Ledger::open(&path, 2).unwrap();
    ledger.commit(b"{}", &[event("4")]).unwrap();
    let events = ledger.history().read(0, 10).unwrap();
    let seen: Vec<_> = events.iter().map(|(n, e)| (*n, e.message.as_str())).collect();
    assert_eq!(seen, [(3, "3"), (4, "4")]);
    assert_eq!(ledger.history().read(4, 10).unwrap().len(), 1);
}

#[test]
fn a_file_that_is_not_a_ledger_is_refused_by_name_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let text = "hello, I am somebody's notes\n".repeat(400);
    std::fs::write(&path, &text).unwrap();
    let error = Ledger::open(&path, 10).err().unwrap();
    assert!(matches!(error, LedgerError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("ledger.redb"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_database_of_another_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let other = Database::create(&path).unwrap();
    let tx = other.begin_write().unwrap();
    tx.open_table(redb::TableDefinition::<u64, u64>::new("theirs")).unwrap();
    tx.commit().unwrap();
    drop(other);
    let error = Ledger::open(&path, 10).err().unwrap();
    assert!(matches!(error, LedgerError::Damaged { .. }), "{error}");
}

#[test]
fn a_ledger_of_a_newer_format_is_refused_with_both_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let newer = Database::create(&path).unwrap();
    let tx = newer.begin_write().unwrap();
    tx.open_table(redb::TableDefinition::<&str, u64>::new("meta")).unwrap().insert("format", 9).unwrap();
    tx.commit().unwrap();
    drop(newer);
    let error = Ledger::open(&path, 10).err().unwrap().to_string();
    assert!(error.contains("format 9") && error.contains("up to 1"), "{error}");
}

#[test]
fn a_ledger_that_is_open_elsewhere_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_ledger, _) = open(dir.path());
    let error = Ledger::open(&dir.path().join("ledger.redb"), 10).err().unwrap();
    assert!(matches!(error, LedgerError::InUse { .. }), "{error}");
}

#[test]
fn a_full_disk_is_named_and_the_ledger_works_again_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.redb");
    let full = Arc::new(AtomicBool::new(false));
    let (mut ledger, _) = open_on(&path, full.clone());
    ledger.commit(b"one", &[]).unwrap();
    full.store(true, Ordering::SeqCst);
    let error = ledger.commit(b"two", &[event("lost")]).unwrap_err();
    assert!(matches!(error, LedgerError::DiskFull { .. }), "{error}");
    assert!(ledger.failed());
    assert!(ledger.reopen().is_err() || ledger.commit(b"two", &[]).is_err(), "the disk is still full");
    full.store(false, Ordering::SeqCst);
    let landed = ledger.reopen().unwrap();
    assert!(landed.is_empty(), "the failed commit must not have landed");
    ledger.commit(b"two again", &[event("kept")]).unwrap();
    assert_eq!(ledger.history().read(0, 10).unwrap().len(), 1);
    drop(ledger);
    let (_, replay) = open(dir.path());
    assert_eq!(replay.changes, [b"one".to_vec(), b"two again".to_vec()]);
}

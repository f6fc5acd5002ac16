use convoke_model::{Checkpoint, CheckpointState, Digest, Generation, Shard, ShardFile, Step, Timestamp};
use sha2::{Digest as _, Sha256};

use super::*;

fn open(root: &Path, known: &[(CheckpointRef, Rank)]) -> Store {
    Store::open(root, &known.iter().cloned().collect()).unwrap()
}

fn reference() -> CheckpointRef {
    CheckpointRef { job: JobId::new("j1").unwrap(), generation: Generation(1), step: Step(10) }
}

fn shard(files: &[(&str, &[u8])]) -> Shard {
    let file = |(path, bytes): &(&str, &[u8])| ShardFile {
        path: (*path).to_owned(),
        size: bytes.len() as u64,
        digest: Digest(Sha256::digest(bytes).into()),
    };
    Shard { rank: Rank(0), files: files.iter().map(file).collect() }
}

const FILES: [(&str, &[u8]); 4] = [("a", b"hello"), ("empty", b""), ("sub/b", b"world!"), ("last", b"")];

fn checkpoint(shard: Shard) -> Checkpoint {
    Checkpoint {
        reference: reference(),
        state: CheckpointState::Complete,
        expected: vec![Rank(0)],
        shards: vec![shard],
        created: Timestamp(0),
    }
}

fn read_all(store: &Store, shard: Shard) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    let mut reader = CheckpointReader::new(store, &checkpoint(shard));
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    while let Some(part) = reader.next()? {
        match part {
            Part::File(_, file) => files.push((file.path, Vec::new())),
            Part::Data(bytes) => files.last_mut().unwrap().1.extend_from_slice(&bytes),
        }
    }
    Ok(files)
}

fn stored(store: &Store) -> Shard {
    let shard = shard(&FILES);
    let mut writer = ShardWriter::new(store, shard.clone()).unwrap();
    // Cut without regard for the files' borders.
    for piece in b"helloworld!".chunks(3) {
        writer.write(piece).unwrap();
    }
    writer.finish().unwrap();
    writer.place(&reference()).unwrap();
    shard
}

fn temporaries(root: &Path) -> usize {
    std::fs::read_dir(root.join(TEMPORARY)).unwrap().count()
}

#[test]
fn a_shard_comes_back_as_it_was_sent_empty_files_included() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &[]);
    let shard = stored(&store);
    let expected: Vec<_> = FILES.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect();
    assert_eq!(read_all(&store, shard).unwrap(), expected);
    assert_eq!(temporaries(dir.path()), 0);
}

#[test]
fn a_wrong_hash_a_short_body_and_extra_bytes_are_refused_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &[]);
    let write = |body: &[u8]| {
        let mut writer = ShardWriter::new(&store, shard(&FILES))?;
        writer.write(body)?;
        writer.finish()
    };
    assert!(matches!(write(b"hellOworld!"), Err(StoreError::HashMismatch { path, .. }) if path == "a"));
    let short = write(b"hellowor");
    assert!(matches!(short, Err(StoreError::ShortBody { path, missing: 3 }) if path == "sub/b"));
    assert!(matches!(write(b"helloworld!!"), Err(StoreError::ExtraBytes)));
    write(b"helloworld!").unwrap();
    assert_eq!(temporaries(dir.path()), 0);
    assert!(!store.shard_dir(&reference(), Rank(0)).exists());
}

#[test]
fn a_file_below_another_file_is_refused_by_its_path() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &[]);
    let clash = ShardWriter::new(&store, shard(&[("a", b""), ("a/b", b"")]));
    assert!(matches!(clash, Err(StoreError::BadPath { path }) if path == "a/b"));
    let long = "x".repeat(300);
    assert!(matches!(ShardWriter::new(&store, shard(&[(&long, b"")])), Err(StoreError::BadPath { .. })));
}

#[test]
fn a_damaged_or_missing_file_is_named_instead_of_being_sent_as_good() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &[]);
    let shard = stored(&store);
    let file = store.shard_dir(&reference(), Rank(0)).join("sub/b");
    for damage in [b"worlD!".as_slice(), b"wor"] {
        std::fs::write(&file, damage).unwrap();
        let error = read_all(&store, shard.clone()).unwrap_err();
        assert!(matches!(&error, StoreError::Damaged { path, .. } if path == "sub/b"), "{error}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(read_all(&store, shard.clone()), Err(StoreError::Damaged { .. })));
    store.remove_checkpoint(&reference()).unwrap();
    assert!(matches!(read_all(&store, shard), Err(StoreError::Deleted(_))));
}

#[test]
fn a_start_removes_what_is_half_done_or_unknown_and_keeps_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &[]);
    let shard = stored(&store);
    let half = store.temporary().unwrap();
    let unknown = dir.path().join("j1/1-10/rank-1");
    let forgotten = dir.path().join("j2/3-4/rank-0");
    for path in [&unknown, &forgotten] {
        std::fs::create_dir_all(path).unwrap();
    }
    let store = open(dir.path(), &[(reference(), Rank(0))]);
    assert!(!half.exists() && !unknown.exists() && !dir.path().join("j2").exists());
    read_all(&store, shard).unwrap();
    open(dir.path(), &[]);
    assert!(!dir.path().join("j1").exists());
}

#[test]
fn a_shard_replaces_one_that_the_catalogue_never_heard_of() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &[]);
    stored(&store);
    let shard = stored(&store);
    read_all(&store, shard).unwrap();
    store.remove_job(&reference().job).unwrap();
    store.remove_job(&reference().job).unwrap();
    assert_eq!(temporaries(dir.path()), 0);
}

use sha2::{Digest as _, Sha256};

use super::*;

fn open(dir: &Path) -> Blobs {
    Blobs::open(dir, &BlobOptions::default()).unwrap()
}

fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

fn store(blobs: &Blobs, contents: &[&[u8]]) -> Result<u64, BlobError> {
    let mut writer = BlobWriter::new(blobs)?;
    for content in contents {
        writer.begin(digest(content), content.len() as u64)?;
        for piece in content.chunks(3) {
            writer.write(piece)?;
        }
    }
    writer.finish()
}

fn read(blobs: &Blobs, digests: &[Digest]) -> Result<Vec<Vec<u8>>, BlobError> {
    let mut reader = BlobReader::new(blobs, digests.to_vec(), 0)?;
    let mut contents: Vec<Vec<u8>> = Vec::new();
    while let Some(part) = reader.next()? {
        match part {
            Part::Header { digest: found, size, .. } => {
                assert_eq!(found, digests[contents.len()]);
                contents.push(Vec::with_capacity(usize::try_from(size).unwrap()));
            }
            Part::Data(bytes) => contents.last_mut().unwrap().extend_from_slice(&bytes),
        }
    }
    Ok(contents)
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn blobs_come_back_as_they_were_stored_the_empty_and_the_repeated_one_included() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(dir.path());
    // More than are synced one by one.
    let many: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n; usize::from(n)]).collect();
    let mut contents: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
    contents.push(contents[7]);
    assert_eq!(store(&blobs, &contents).unwrap(), 41);
    let digests: Vec<Digest> = contents.iter().map(|c| digest(c)).collect();
    assert_eq!(read(&blobs, &digests).unwrap(), contents);
    assert!(blobs.missing(&digests).unwrap().is_empty());
    assert_eq!(entries(&dir.path().join(TEMPORARY)), 0);
    let none = digest(b"none");
    assert_eq!(blobs.missing(&[digests[0], none]).unwrap(), [none]);
    assert!(matches!(read(&blobs, &[digests[0], none]), Err(BlobError::Unknown(d)) if d == none));
}

#[test]
fn a_wrong_hash_a_short_blob_and_extra_bytes_are_refused_by_name_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(dir.path());
    let upload = |claimed: &[u8], sent: &[u8], then: Option<&[u8]>| {
        let mut writer = BlobWriter::new(&blobs)?;
        writer.begin(digest(claimed), claimed.len() as u64)?;
        writer.write(sent)?;
        if let Some(next) = then {
            writer.begin(digest(next), next.len() as u64)?;
            writer.write(next)?;
        }
        writer.finish()
    };
    let wrong = upload(b"hello", b"hellO", None);
    assert!(matches!(wrong, Err(BlobError::HashMismatch { expected, .. }) if expected == digest(b"hello")));
    for then in [None, Some(b"next".as_slice())] {
        let short = upload(b"hello", b"hell", then);
        assert!(matches!(short, Err(BlobError::ShortBody { missing: 1, .. })), "{short:?}");
    }
    for sent in [b"hello!".as_slice(), b"hello"] {
        let mut writer = BlobWriter::new(&blobs).unwrap();
        writer.begin(digest(b"hello"), 5).unwrap();
        let first = writer.write(sent);
        assert!(matches!(first.and_then(|()| writer.write(b"!")), Err(BlobError::ExtraBytes)));
    }
    let mut headless = BlobWriter::new(&blobs).unwrap();
    assert!(matches!(headless.write(b"x"), Err(BlobError::ExtraBytes)));
    let huge = headless.begin(digest(b"x"), MAX_BLOB + 1);
    assert!(matches!(huge, Err(BlobError::TooLarge { .. })));
    drop(headless);
    assert_eq!(entries(&dir.path().join(TEMPORARY)), 0);
    assert_eq!(blobs.missing(&[digest(b"hello"), digest(b"next")]).unwrap().len(), 2);
}

#[test]
fn bytes_of_a_blob_that_is_there_are_checked_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(dir.path());
    assert_eq!(store(&blobs, &[b"hello"]).unwrap(), 1);
    assert_eq!(store(&blobs, &[b"hello", b"world"]).unwrap(), 2);
    let mut writer = BlobWriter::new(&blobs).unwrap();
    writer.begin(digest(b"hello"), 5).unwrap();
    assert!(matches!(writer.write(b"hellO"), Err(BlobError::HashMismatch { .. })));
    assert_eq!(read(&blobs, &[digest(b"hello")]).unwrap(), [b"hello"]);
}

#[test]
fn a_damaged_blob_is_named_put_aside_and_can_be_stored_again() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(dir.path());
    let hello = digest(b"hello");
    for damage in [b"hellO".as_slice(), b"hell", b"hello!", b""] {
        store(&blobs, &[b"hello"]).unwrap();
        std::fs::write(blobs.path(&hello), damage).unwrap();
        let error = read(&blobs, &[hello]).unwrap_err();
        assert!(matches!(error, BlobError::Damaged(d) if d == hello), "{error}");
        assert_eq!(blobs.missing(&[hello]).unwrap(), [hello]);
    }
    store(&blobs, &[b"hello"]).unwrap();
    assert_eq!(read(&blobs, &[hello]).unwrap(), [b"hello"]);
}

#[test]
fn a_blob_that_lost_bytes_is_stored_anew_and_one_whose_size_is_told_wrong_stays() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(dir.path());
    let hello = digest(b"hello");
    let lose_bytes = || std::fs::write(blobs.path(&hello), b"hell").unwrap();
    store(&blobs, &[b"hello"]).unwrap();
    lose_bytes();
    store(&blobs, &[b"hello"]).unwrap();
    assert_eq!(read(&blobs, &[hello]).unwrap(), [b"hello"]);
    assert_eq!(blobs.size_checked(&hello, 5).unwrap(), Some(5));
    assert_eq!(blobs.size_checked(&hello, 6).unwrap(), Some(5));
    lose_bytes();
    assert_eq!(blobs.size_checked(&hello, 5).unwrap(), None);
    assert_eq!(blobs.missing(&[hello]).unwrap(), [hello]);
}

#[test]
fn a_reader_that_found_damage_leaves_the_good_blob_alone_that_took_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(dir.path());
    let hello = digest(b"hello");
    store(&blobs, &[b"hello"]).unwrap();
    std::fs::write(blobs.path(&hello), b"hellO").unwrap();
    let mut late = BlobReader::new(&blobs, vec![hello], 0).unwrap();
    late.next().unwrap();
    late.next().unwrap();
    read(&blobs, &[hello]).unwrap_err();
    store(&blobs, &[b"hello"]).unwrap();
    assert!(matches!(late.next(), Err(BlobError::Damaged(_))));
    assert_eq!(read(&blobs, &[hello]).unwrap(), [b"hello"]);
}

#[test]
fn a_start_removes_what_was_half_received_and_keeps_what_is_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(dir.path());
    store(&blobs, &[b"hello"]).unwrap();
    let mut half = BlobWriter::new(&blobs).unwrap();
    half.begin(digest(b"world"), 5).unwrap();
    half.write(b"wor").unwrap();
    // As after a kill: nothing tidies up.
    std::mem::forget(half);
    assert_eq!(entries(&dir.path().join(TEMPORARY)), 1);
    let blobs = open(dir.path());
    assert_eq!(entries(&dir.path().join(TEMPORARY)), 0);
    assert_eq!(read(&blobs, &[digest(b"hello")]).unwrap(), [b"hello"]);
}

#[test]
fn what_would_leave_less_than_the_reserve_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let full = BlobOptions { reserve_bytes: u64::MAX, reserve_percent: 100, ..BlobOptions::default() };
    let blobs = Blobs::open(dir.path(), &full).unwrap();
    assert!(matches!(store(&blobs, &[b"hello"]), Err(BlobError::DiskFull)));
    assert_eq!(entries(&dir.path().join(TEMPORARY)), 0);
}

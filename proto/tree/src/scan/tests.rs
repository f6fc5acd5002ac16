//! On real directories: what a scan takes, leaves out and refuses.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const NO_LIMIT: u64 = u64::MAX;

/// A directory with these files; a name that ends in `/` is a directory.
fn tree(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path_on_disk = dir.path().join(path);
        if path.ends_with('/') {
            fs::create_dir_all(path_on_disk).unwrap();
        } else {
            fs::create_dir_all(path_on_disk.parent().unwrap()).unwrap();
            fs::write(path_on_disk, content).unwrap();
        }
    }
    dir
}

fn scan_with(root: &Path, cache: &mut DigestCache) -> Result<Scanned, ScanError> {
    scan(root, &Options { project: root, limit: NO_LIMIT }, cache, &Progress::default())
}

fn scanned(root: &Path) -> Result<Scanned, ScanError> {
    scan_with(root, &mut DigestCache::default())
}

fn paths(scanned: &Scanned) -> Vec<&str> {
    scanned.manifest.entries.iter().map(|e| e.path.as_str()).collect()
}

fn digest(content: &str) -> Digest {
    use sha2::Digest as _;
    Digest(sha2::Sha256::digest(content).into())
}

/// Makes a file look as if it was last written an hour ago; its change time stays now.
fn age(path: &Path) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
}

#[test]
fn a_tree_is_every_entry_with_its_mode_and_content() {
    let dir = tree(&[("b/x.txt", "one"), ("a.txt", "one"), ("empty/", ""), ("b.txt", "two")]);
    fs::write(dir.path().join("b/.convoke-shared"), "a marker is no content").unwrap();
    symlink("../a.txt", dir.path().join("b/link")).unwrap();
    fs::set_permissions(dir.path().join("b/x.txt"), fs::Permissions::from_mode(0o750)).unwrap();
    let scanned = scanned(dir.path()).unwrap();
    assert_eq!(paths(&scanned), ["a.txt", "b", "b/link", "b/x.txt", "b.txt", "empty"]);
    assert_eq!(Manifest::decode(&scanned.manifest.encode()).unwrap(), scanned.manifest);
    let entry = |path| scanned.manifest.entries.iter().find(|e| e.path == path).unwrap();
    assert_eq!(entry("b/x.txt").mode, 0o750);
    assert_eq!(entry("b/x.txt").kind, Kind::File { size: 3, digest: digest("one") });
    assert_eq!(entry("b/link").kind, Kind::Symlink { target: "../a.txt".to_owned() });
    assert_eq!(scanned.files.len(), 2, "equal files are one content");
    let mut source = scanned.files[&digest("two")].open().unwrap().expect("it is unchanged");
    assert_eq!(io::read_to_string(&mut source).unwrap(), "two");
}

#[test]
fn a_single_file_is_a_tree_of_its_own() {
    let dir = tree(&[("token", "secret")]);
    symlink("token", dir.path().join("current")).unwrap();
    let by_link = scanned(&dir.path().join("current")).unwrap();
    assert!(by_link.manifest.is_single_file());
    assert_eq!(by_link.manifest.entries[0].kind, Kind::File { size: 6, digest: digest("secret") });
}

#[test]
fn only_the_ignore_file_leaves_entries_out() {
    let dir = tree(&[
        (".gitignore", "kept"),
        (".git/HEAD", "x"),
        ("kept", "x"),
        (".convokeignore", "*.tmp\n/cache/\n"),
        ("a.tmp", "x"),
        ("cache/x", "x"),
        ("sub/cache/x", "x"),
        ("sub/.convokeignore", "!keep.tmp\nown\n"),
        ("sub/keep.tmp", "x"),
        ("sub/own", "x"),
        ("z/keep.tmp", "x"),
        ("z/own", "x"),
    ]);
    let scanned = scanned(dir.path()).unwrap();
    let files: Vec<_> = paths(&scanned).into_iter().filter(|p| dir.path().join(p).is_file()).collect();
    let expected = [
        ".convokeignore",
        ".git/HEAD",
        ".gitignore",
        "kept",
        "sub/.convokeignore",
        "sub/cache/x",
        "sub/keep.tmp",
        "z/own",
    ];
    assert_eq!(files, expected);
}

#[test]
fn the_projects_ignore_file_reaches_into_its_directories_but_not_others() {
    let dir =
        tree(&[("p/.convokeignore", "/data/raw/\n*.bak\n"), ("p/data/raw/x", ""), ("p/data/a.bak", "")]);
    fs::write(dir.path().join(".convokeignore"), "kept").unwrap();
    fs::write(dir.path().join("p/data/kept"), "").unwrap();
    let project = dir.path().join("p");
    let options = Options { project: &project, limit: NO_LIMIT };
    let below =
        scan(&project.join("data"), &options, &mut DigestCache::default(), &Progress::default()).unwrap();
    assert_eq!(paths(&below), ["kept"]);
    let beside = tree(&[("a.bak", "")]);
    let beside = scan(beside.path(), &options, &mut DigestCache::default(), &Progress::default()).unwrap();
    assert_eq!(paths(&beside), ["a.bak"]);
}

#[test]
fn a_bad_pattern_is_refused_by_file() {
    let dir = tree(&[(".convokeignore", "a{b\n")]);
    let error = scanned(dir.path()).unwrap_err();
    assert!(
        matches!(&error, ScanError::BadIgnore { path, .. } if path.ends_with(".convokeignore")),
        "{error}"
    );
}

#[test]
fn a_link_out_of_the_tree_is_refused_by_name_with_advice() {
    let outside = tree(&[("x", "")]);
    let outside = outside.path().to_str().unwrap();
    for target in ["/etc/passwd", "../..", "../../x", "sub/../../../x", outside] {
        let dir = tree(&[("sub/", "")]);
        let link = dir.path().join("sub/bad");
        symlink(target, &link).unwrap();
        let error = scanned(dir.path()).unwrap_err();
        assert!(matches!(error, ScanError::LinkOut { .. }), "{target}: {error}");
        assert!(error.to_string().contains(link.to_str().unwrap()), "{error}");
        assert!(error.advice().contains("absolute path"), "{}", error.advice());
    }
}

#[test]
fn a_link_that_leads_out_through_another_link_is_refused() {
    let dir = tree(&[("a/", "")]);
    symlink("..", dir.path().join("a/up")).unwrap();
    assert!(scanned(dir.path()).is_ok());
    symlink("a/up/..", dir.path().join("sly")).unwrap();
    let error = scanned(dir.path()).unwrap_err();
    assert!(matches!(&error, ScanError::LinkOut { path, .. } if path.ends_with("sly")), "{error}");
}

#[test]
fn a_link_to_nowhere_within_the_tree_travels() {
    let dir = tree(&[]);
    symlink("later/x", dir.path().join("latest")).unwrap();
    assert_eq!(paths(&scanned(dir.path()).unwrap()), ["latest"]);
}

#[test]
fn sockets_and_pipes_are_refused_unless_they_are_left_out() {
    let dir = tree(&[]);
    let _socket = UnixListener::bind(dir.path().join("agent.sock")).unwrap();
    let error = scanned(dir.path()).unwrap_err();
    assert!(error.to_string().contains("agent.sock is a socket"), "{error}");
    fs::write(dir.path().join(IGNORE_FILE), "*.sock").unwrap();
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("pipe"), rustix::fs::FileType::Fifo, mode, 0)
        .unwrap();
    let error = scanned(dir.path()).unwrap_err();
    assert!(error.to_string().contains("pipe is a named pipe"), "{error}");
    fs::write(dir.path().join(IGNORE_FILE), "*.sock\npipe").unwrap();
    assert_eq!(paths(&scanned(dir.path()).unwrap()), [IGNORE_FILE]);
}

#[test]
fn a_name_that_is_not_utf8_is_refused_unless_it_is_left_out() {
    let dir = tree(&[]);
    fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9.txt")), "").unwrap();
    let error = scanned(dir.path()).unwrap_err();
    assert!(matches!(&error, ScanError::NotUtf8 { .. }) && error.to_string().contains("caf\\xE9"), "{error}");
    fs::write(dir.path().join(IGNORE_FILE), "caf*").unwrap();
    assert!(scanned(dir.path()).is_ok());
}

#[test]
fn a_root_that_is_not_there_is_unreadable() {
    let dir = tree(&[]);
    let error = scanned(&dir.path().join("absent")).unwrap_err();
    assert!(matches!(error, ScanError::Unreadable { .. }), "{error}");
}

#[test]
fn a_file_that_changes_once_while_it_is_read_is_read_again_and_one_that_keeps_changing_is_refused() {
    let dir = tree(&[("log", "start")]);
    let path = dir.path().join("log");
    let mut times = 0;
    let mut append_until = |limit: usize| {
        let mut buffer = vec![0; 4];
        times = 0;
        hash::hash(&path, &Progress::default(), &mut buffer, || {
            times += 1;
            if times <= limit {
                File::options().append(true).open(&path).unwrap().write_all(b"+").unwrap();
            }
        })
    };
    assert_eq!(append_until(1).unwrap().1, digest("start+"));
    assert!(matches!(append_until(2), Err(ScanError::Changed { .. })));
}

#[test]
fn a_source_that_changed_after_the_scan_is_not_opened() {
    let dir = tree(&[("a", "one")]);
    let scanned = scanned(dir.path()).unwrap();
    let source = &scanned.files[&digest("one")];
    assert!(source.open().unwrap().is_some());
    fs::write(dir.path().join("a"), "another").unwrap();
    assert!(source.open().unwrap().is_none());
}

#[test]
fn too_many_bytes_are_refused_before_any_is_read_with_where_they_are() {
    let dir = tree(&[("data/train/big", "0123456789"), ("data/train/sub/x", "01234"), ("code.py", "1")]);
    fs::set_permissions(dir.path().join("data/train/big"), fs::Permissions::from_mode(0o000)).unwrap();
    let options = Options { project: dir.path(), limit: 15 };
    let error = scan(dir.path(), &options, &mut DigestCache::default(), &Progress::default()).unwrap_err();
    let ScanError::TooLarge { bytes: 16, limit: 15, largest, .. } = &error else { panic!("{error:?}") };
    let part = |path: &str, bytes| Part { path: path.to_owned(), bytes };
    assert_eq!(*largest, [part("data/train/big", 10), part("data/train/sub", 5)]);
    assert!(error.advice().contains(IGNORE_FILE) && error.advice().contains("shared file system"));
}

#[test]
fn a_scan_can_be_cancelled() {
    let dir = tree(&[("a", "x")]);
    let progress = Progress::default();
    progress.cancelled.store(true, Ordering::Relaxed);
    let options = Options { project: dir.path(), limit: NO_LIMIT };
    let result = scan(dir.path(), &options, &mut DigestCache::default(), &progress);
    assert!(matches!(result, Err(ScanError::Cancelled)));
}

#[test]
fn progress_reaches_the_total() {
    let dir = tree(&[("a", "12345"), ("b/c", "123")]);
    let progress = Progress::default();
    let options = Options { project: dir.path(), limit: NO_LIMIT };
    scan(dir.path(), &options, &mut DigestCache::default(), &progress).unwrap();
    let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
    assert_eq!((read(&progress.entries), read(&progress.bytes), read(&progress.total)), (3, 8, 8));
}

/// A cache that holds `path` with a digest of nothing, as if it had been hashed long ago.
fn poisoned(caches: &Path, root: &Path, path: &Path) -> DigestCache {
    let mut stamp = serde_json::to_value(Stamp::of(&fs::metadata(path).unwrap())).unwrap();
    stamp["h"] = Digest([0; 32]).to_string().into();
    let mut cache = DigestCache::open(caches, root);
    cache.save().unwrap();
    let file = fs::read_dir(caches).unwrap().next().unwrap().unwrap().path();
    fs::write(file, serde_json::to_vec(&BTreeMap::from([(path, stamp)])).unwrap()).unwrap();
    DigestCache::open(caches, root)
}

#[test]
fn what_the_cache_knows_is_not_read_and_what_looks_different_is() {
    let dir = tree(&[("a", "one")]);
    let caches = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let a = root.join("a");
    let wrong = Kind::File { size: 3, digest: Digest([0; 32]) };
    let mut cache = poisoned(caches.path(), &root, &a);
    assert_eq!(scan_with(&root, &mut cache).unwrap().manifest.entries[0].kind, wrong, "taken on trust");
    cache.forget(&a);
    let right = Kind::File { size: 3, digest: digest("one") };
    assert_eq!(scan_with(&root, &mut cache).unwrap().manifest.entries[0].kind, right);
    let mut cache = poisoned(caches.path(), &root, &a);
    // As long, and with an older time of modification: only the change time tells.
    fs::write(&a, "two").unwrap();
    age(&a);
    let right = Kind::File { size: 3, digest: digest("two") };
    assert_eq!(scan_with(&root, &mut cache).unwrap().manifest.entries[0].kind, right);
}

#[test]
fn a_file_that_was_written_just_now_is_not_remembered_and_what_has_gone_is_forgotten() {
    let dir = tree(&[("new", "one")]);
    let root = dir.path().canonicalize().unwrap();
    let caches = tempfile::tempdir().unwrap();
    let mut cache = DigestCache::open(caches.path(), &root);
    scan_with(&root, &mut cache).unwrap();
    cache.save().unwrap();
    let stamp = Stamp::of(&fs::metadata(root.join("new")).unwrap());
    assert_eq!(DigestCache::open(caches.path(), &root).get(&root.join("new"), &stamp), None);

    let mut cache = poisoned(caches.path(), &root, &root.join("new"));
    fs::rename(root.join("new"), root.join("moved")).unwrap();
    scan_with(&root, &mut cache).unwrap();
    cache.save().unwrap();
    assert_eq!(DigestCache::open(caches.path(), &root).get(&root.join("new"), &stamp), None);
}

#[test]
fn a_damaged_cache_is_an_empty_one() {
    let dir = tree(&[("a", "one")]);
    let caches = tempfile::tempdir().unwrap();
    let mut cache = DigestCache::open(caches.path(), dir.path());
    cache.save().unwrap();
    let file = fs::read_dir(caches.path()).unwrap().next().unwrap().unwrap().path();
    fs::write(&file, "{\"half").unwrap();
    let mut cache = DigestCache::open(caches.path(), dir.path());
    assert!(scan_with(dir.path(), &mut cache).is_ok());
    cache.save().unwrap();
    assert!(serde_json::from_slice::<serde_json::Value>(&fs::read(&file).unwrap()).is_ok());
}

#[test]
fn twenty_thousand_files_and_a_thousand_levels_are_no_trouble() {
    let dir = tree(&[]);
    for d in 0..20 {
        let sub = dir.path().join(format!("{d}"));
        fs::create_dir(&sub).unwrap();
        for f in 0..1_000 {
            fs::write(sub.join(format!("{f}")), format!("{d}/{f}")).unwrap();
        }
    }
    let deep = dir.path().join(["d"; 1_000].join("/"));
    fs::create_dir_all(&deep).unwrap();
    let scanned = scanned(dir.path()).unwrap();
    assert_eq!(scanned.manifest.reference().files, 20_000);
    assert_eq!(scanned.manifest.entries.len(), 21_020);
    assert!(Manifest::decode(&scanned.manifest.encode()).is_ok());
}

fn name() -> impl Strategy<Value = String> {
    "[a-cA. _é-]{1,3}".prop_filter("a name of its own", |name| name != "." && name != "..")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever lies there: the manifest is accepted by those who get it, names every file once with
    /// its content, and is the same for the same content elsewhere.
    #[test]
    fn any_tree_gives_a_manifest_that_others_accept(
        files in proptest::collection::btree_map(proptest::collection::vec(name(), 1..4), "[a-z]{0,4}", 0..12)
    ) {
        let dirs = [tree(&[]), tree(&[])];
        let mut written = BTreeMap::new();
        for (parts, content) in &files {
            let path = parts.join("/");
            // A file cannot be below another.
            for dir in &dirs {
                let on_disk = dir.path().join(&path);
                if fs::create_dir_all(on_disk.parent().unwrap()).is_ok() && fs::write(&on_disk, content).is_ok() {
                    written.insert(path.clone(), content.clone());
                }
            }
        }
        let [first, second] = dirs.each_ref().map(|dir| scanned(dir.path()).unwrap());
        prop_assert_eq!(&first.manifest, &second.manifest);
        prop_assert_eq!(&Manifest::decode(&first.manifest.encode()).unwrap(), &first.manifest);
        let mut listed = BTreeMap::new();
        for entry in &first.manifest.entries {
            if let Kind::File { digest, .. } = entry.kind {
                let content = fs::read_to_string(&first.files[&digest].path).unwrap();
                listed.insert(entry.path.clone(), content);
            }
        }
        prop_assert_eq!(listed, written);
    }
}

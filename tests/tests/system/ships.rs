//! Files that travel from the submitter: what is sent, what is not sent twice, what is refused.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use convoke_tests::{Cli, LocalCluster, ScriptedAgent, Wire, eventually, hello};

/// No engine, wherever the story runs: images are the nodes' to find.
const NO_ENGINE: (&str, &str) = ("DOCKER_HOST", "unix:///nowhere/docker.sock");

/// A cluster without agents, and a project whose one service mounts three directories and a secret.
async fn project() -> (LocalCluster, PathBuf) {
    let cluster = LocalCluster::start(&[]).await;
    let dir = cluster.directory().join("digits");
    fs::create_dir_all(dir.join("data/train")).expect("it is writable");
    fs::create_dir(dir.join("scripts")).expect("it is writable");
    for n in 0..20 {
        write(&dir, &format!("data/train/{n}.bin"), &format!("{n}").repeat(1000));
    }
    write(&dir, "scripts/train.py", "print('hello')\n");
    write(&dir, "token", "secret");
    write(
        &dir,
        "compose.yaml",
        "services:\n  train:\n    image: example.invalid/none:1\n    command: python train.py\n    volumes:\n      \
         - ./data:/data:ro\n      - ./scripts:/scripts\n      - ./checkpoints:/checkpoints\n    secrets: [token]\n\
         secrets:\n  token:\n    file: ./token\n",
    );
    (cluster, dir)
}

fn write(dir: &Path, path: &str, content: &str) {
    fs::write(dir.join(path), content).expect("it is writable");
}

fn up(cluster: &LocalCluster, dir: &Path, args: &[&str]) -> Cli {
    let args: Vec<_> = ["up", "--wait-for-nodes"].into_iter().chain(args.iter().copied()).collect();
    cluster.cli(&args).variable(NO_ENGINE.0, NO_ENGINE.1).directory(dir)
}

#[tokio::test]
async fn a_second_up_sends_only_what_changed() {
    let (cluster, dir) = project().await;
    let first = up(&cluster, &dir, &["-d"]).run().await.expect_code(0);
    assert!(first.stderr.contains("./checkpoints was not there: made, empty"), "{}", first.stderr);
    assert!(first.stderr.contains("shipped 22 of 22 files, 29.3 KiB\n"), "{}", first.stderr);
    assert!(dir.join("checkpoints").is_dir());

    let job = cluster.job("digits-train").await;
    let container = job.spec.and_then(|spec| spec.container).expect("a container");
    let content = |n: usize| container.volumes[n].content.clone().expect("the mount has content");
    assert_eq!((content(0).files, content(1).files, content(2).files), (20, 1, 0));
    assert_eq!(container.secrets[0].content.as_ref().map(|tree| tree.bytes), Some(6));

    let again = up(&cluster, &dir, &["-d", "--name", "again"]).run().await.expect_code(0);
    assert!(again.stderr.contains("shipped nothing of 22 files (29.3 KiB unchanged)"), "{}", again.stderr);

    write(&dir, "scripts/train.py", "print('changed')\n");
    write(&dir, ".convokeignore", "data/train/1*\n");
    let third = up(&cluster, &dir, &["-d", "--name", "third"]).run().await.expect_code(0);
    assert!(third.stderr.contains("shipped 1 of 11 files, 17 B (8.8 KiB unchanged)"), "{}", third.stderr);
    cluster.finish().await;
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_sent_and_changes_nothing() {
    let (cluster, dir) = project().await;
    let dry = up(&cluster, &dir, &["--dry-run"]).run().await.expect_code(0);
    assert!(dry.stdout.contains("would ship 22 of 22 files, 29.3 KiB"), "{}", dry.stdout);
    assert!(dry.stderr.contains("./checkpoints is not there: it would be made"), "{}", dry.stderr);
    assert!(!dir.join("checkpoints").exists());
    let json = up(&cluster, &dir, &["--dry-run", "-o", "json"]).run().await.expect_code(0).json();
    assert_eq!(json["shipping"]["files"]["bytes"], 30021);
    let jobs = cluster.cli(&["ps", "-a", "-o", "json"]).run().await.json();
    assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(0));
    cluster.finish().await;
}

#[tokio::test]
async fn what_cannot_travel_is_refused_by_name_with_advice_before_anything_is_submitted() {
    let (cluster, dir) = project().await;
    let refused = async |reason: &str, words: &[&str], args: &[&str]| {
        let args: Vec<_> = ["-d", "-o", "json"].iter().chain(args).copied().collect();
        let error = up(&cluster, &dir, &args).run().await.expect_code(1).json_error();
        assert_eq!(error["reason"], reason, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "no \"{word}\" in {error}");
        }
    };
    symlink("/etc", dir.join("scripts/etc")).expect("it is writable");
    refused("LINK_OUT", &["scripts/etc", "/etc", ".convokeignore", "absolute path"], &[]).await;
    fs::remove_file(dir.join("scripts/etc")).expect("it is there");
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("data/x.sock")).expect("a socket");
    refused("SPECIAL_FILE", &["data/x.sock", "a socket"], &[]).await;
    fs::remove_file(dir.join("data/x.sock")).expect("it is there");
    refused(
        "TOO_LARGE",
        &["./data holds 29.3 KiB", "10.0 KiB", "train/10.bin", ":ro", "--max-ship-size"],
        &["--max-ship-size", "10KiB"],
    )
    .await;
    refused("TOO_LARGE", &["what the job mounts", "./data 29.3 KiB"], &["--max-ship-size", "30004"]).await;
    fs::remove_file(dir.join("token")).expect("it is there");
    refused("FILE", &["./token", "No such file"], &[]).await;
    let jobs = cluster.cli(&["ps", "-a", "-o", "json"]).run().await.json();
    assert_eq!(jobs["jobs"].as_array().map(Vec::len), Some(0));
    cluster.finish().await;
}

#[tokio::test]
async fn what_the_coordinator_would_refuse_is_refused_before_anything_is_sent() {
    let (cluster, dir) = project().await;
    up(&cluster, &dir, &["-d"]).run().await.expect_code(0);
    write(&dir, "scripts/new.py", "new\n");
    let taken = up(&cluster, &dir, &["-d"]).run().await.expect_code(4);
    assert!(taken.stderr.contains("has not ended") && taken.stderr.contains("--replace"), "{}", taken.stderr);
    assert!(!taken.stderr.contains("shipped"), "{}", taken.stderr);
    let _agent = ScriptedAgent::connect(&cluster, hello("scripted", "one", 1)).await.expect("a new node");
    let other = cluster.cli(&["up", "-d", "--name", "b"]).variable(NO_ENGINE.0, NO_ENGINE.1).directory(&dir);
    let never = other.run().await.expect_code(4);
    assert!(never.stderr.contains("fits on no set of registered nodes"), "{}", never.stderr);
    assert!(
        never.stderr.contains("runs no containers") && !never.stderr.contains("shipped"),
        "{}",
        never.stderr
    );
    cluster.finish().await;
}

#[tokio::test]
async fn after_a_broken_connection_what_was_stored_is_not_sent_again() {
    const FILES: u64 = 96;
    const SIZE: u64 = 2 << 20;
    let (cluster, dir) = project().await;
    for n in 0..FILES {
        // Each its own content, none of it compressible into another's.
        write(&dir, &format!("data/{n}.large"), &format!("{n:08}").repeat(SIZE as usize / 8));
    }
    let wire = Wire::to(&cluster).await;
    wire.cut_after(FILES * SIZE * 2 / 3);
    let shipped =
        up(&cluster, &dir, &["-d"]).variable("CONVOKE_COORDINATOR", &wire.url()).run().await.expect_code(0);
    assert!(wire.was_cut(), "the wire was never cut");
    assert!(shipped.stderr.contains("went away") && shipped.stderr.contains("is back"), "{}", shipped.stderr);
    assert!(shipped.stderr.contains("shipped 118 of 118 files"), "{}", shipped.stderr);
    let again = wire.sent() - FILES * SIZE * 2 / 3;
    assert!(again < FILES * SIZE, "{again} bytes were sent after the cut");
    cluster.finish().await;
}

#[tokio::test]
async fn a_remembered_digest_that_is_wrong_is_found_out_and_mended() {
    let (cluster, dir) = project().await;
    write(&dir, "scripts/train.py", "print('right')\n");
    up(&cluster, &dir, &["-d"]).run().await.expect_code(0);
    let right = content_of_scripts(&cluster, "digits-train").await;
    // The cache believes that the file, as it looks now, holds something else.
    let path = dir.canonicalize().expect("it is there").join("scripts/train.py");
    let look = fs::metadata(&path).expect("it is there");
    // Only what was written a while ago is taken on trust.
    eventually("the file has lain there for a while", async || {
        let changed = UNIX_EPOCH + Duration::new(look.ctime().cast_unsigned(), 0);
        changed.elapsed().is_ok_and(|age| age > Duration::from_secs(4)).then_some(())
    })
    .await;
    let nanos = |seconds: i64, nanos: i64| seconds * 1_000_000_000 + nanos;
    let known = serde_json::json!({ path.to_str().expect("a UTF-8 path"): {
        "s": look.size(), "m": nanos(look.mtime(), look.mtime_nsec()),
        "c": nanos(look.ctime(), look.ctime_nsec()), "i": look.ino(), "d": look.dev(), "h": "ab".repeat(32),
    }});
    let caches = cluster.directory().join("cache/convoke/digests");
    let cache = fs::read_dir(&caches).expect("caches").next().expect("a cache").expect("an entry").path();
    fs::write(&cache, known.to_string()).expect("it is writable");
    up(&cluster, &dir, &["-d", "--name", "second"]).run().await.expect_code(0);
    assert_eq!(content_of_scripts(&cluster, "second").await, right);
    cluster.finish().await;
}

async fn content_of_scripts(cluster: &LocalCluster, job: &str) -> String {
    let job = cluster.job(job).await;
    let container = job.spec.and_then(|spec| spec.container).expect("a container");
    convoke_tests::hex(&container.volumes[1].content.as_ref().expect("content").sha256)
}

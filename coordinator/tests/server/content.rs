//! Trees that a job is laid out from: refused while they are not complete, kept while they are needed.

use std::path::Path;
use std::time::{Duration, SystemTime};

use convoke_model::{Digest, FileGrant, Mount, MountKind, TreeRef};
use convoke_proto::v1;
use convoke_tree::{Entry, Kind, Manifest};
use tonic::Status;

use crate::agent::Agent;
use crate::artifacts::artifact;
use crate::coordinator::{Coordinator, eventually, reason, spec, submission};
use crate::files::{fetch, missing, path_of, sha256, store};

fn entry(path: &str, content: &[u8]) -> Entry {
    let digest = Digest(sha256(content).as_ref().try_into().unwrap());
    Entry { path: path.to_owned(), mode: 0o644, kind: Kind::File { size: content.len() as u64, digest } }
}

fn manifest(files: &[(&str, &[u8])]) -> Manifest {
    Manifest { entries: files.iter().map(|(path, content)| entry(path, content)).collect() }
}

/// A submit whose only mount holds this tree.
fn with_tree(name: &str, tree: TreeRef) -> v1::SubmitJobRequest {
    let mut spec = spec(name);
    spec.container.volumes = vec![Mount {
        kind: MountKind::Bind,
        source: "./data".to_owned(),
        target: "/data".to_owned(),
        read_only: false,
        content: Some(tree),
        shared: None,
    }];
    v1::SubmitJobRequest { spec: Some(spec.into()), ..submission(name, &format!("key-{name}")) }
}

async fn submit(coordinator: &Coordinator, request: v1::SubmitJobRequest) -> Result<v1::Job, Status> {
    let answer = coordinator.jobs().submit_job(request).await?;
    Ok(answer.into_inner().job.unwrap())
}

async fn refused(coordinator: &Coordinator, request: v1::SubmitJobRequest, why: &str) {
    let status = submit(coordinator, request).await.unwrap_err();
    assert!(status.message().contains(why), "{status:?}");
    assert!(status.message().contains("submit again"), "{status:?}");
    assert_eq!(reason(Err::<(), _>(status)), "MISSING_CONTENT");
}

#[tokio::test]
async fn a_submit_is_refused_until_all_of_its_content_is_there() {
    let coordinator = Coordinator::start().await;
    let channel = &coordinator.channel;
    let manifest = manifest(&[("a", b"1"), ("b", b"22"), ("c", b"1")]);
    let (encoded, tree) = (manifest.encode(), manifest.reference());
    let request = || with_tree("a", tree.clone());
    refused(&coordinator, request(), &tree.digest.to_string()).await;
    store(channel, &[&encoded, b"1"]).await.unwrap();
    refused(&coordinator, request(), "1 of the 3 files").await;
    refused(&coordinator, request(), "\"b\" the first").await;
    store(channel, &[b"22"]).await.unwrap();
    let mut another = request();
    let grant = FileGrant {
        source: "token".to_owned(),
        file: Some("./token".to_owned()),
        target: None,
        content: Some(TreeRef { digest: Digest([7; 32]), files: 1, bytes: 1 }),
    };
    another.spec.as_mut().unwrap().container.as_mut().unwrap().secrets = vec![grant.into()];
    refused(&coordinator, another, "is not stored here").await;
    let job = submit(&coordinator, request()).await.unwrap();
    // A file that lost bytes on the coordinator's disk is missing, and can be sent again.
    std::fs::write(path_of(coordinator.dir.path(), b"22"), b"2").unwrap();
    refused(&coordinator, with_tree("b", tree.clone()), "\"b\" the first").await;
    assert_eq!(missing(channel, &[b"22"]).await.len(), 1);
    store(channel, &[b"22"]).await.unwrap();
    submit(&coordinator, with_tree("b", tree.clone())).await.unwrap();
    assert_eq!(coordinator.job("a").await.id, job.id);
    coordinator.stop().await;
}

#[tokio::test]
async fn content_that_is_not_what_the_job_says_is_refused() {
    let coordinator = Coordinator::start().await;
    let channel = &coordinator.channel;
    let good = manifest(&[("a", b"1")]);
    let mut lying = manifest(&[("a", b"1")]);
    lying.entries[0].kind = Kind::File { size: 9, digest: Digest(sha256(b"1").as_ref().try_into().unwrap()) };
    let outside = manifest(&[("../a", b"1")]);
    store(channel, &[b"1", b"not json", &good.encode(), &lying.encode(), &outside.encode()]).await.unwrap();
    let tree = |bytes: &[u8]| TreeRef {
        digest: Digest(sha256(bytes).as_ref().try_into().unwrap()),
        files: 1,
        bytes: 1,
    };
    refused(&coordinator, with_tree("a", tree(b"not json")), "is not a manifest").await;
    refused(&coordinator, with_tree("a", tree(&outside.encode())), "not a plain relative path").await;
    refused(&coordinator, with_tree("a", tree(&lying.encode())), "9 bytes").await;
    let wrong = TreeRef { files: 2, ..good.reference() };
    refused(&coordinator, with_tree("a", wrong), "not what the job says").await;
    submit(&coordinator, with_tree("a", good.reference())).await.unwrap();
    coordinator.stop().await;
}

/// As if everything had been stored a day and an hour ago.
fn age(dir: &Path) {
    let then = SystemTime::now() - Duration::from_secs(25 * 3600);
    for prefix in std::fs::read_dir(dir.join("data/blobs")).unwrap() {
        for blob in std::fs::read_dir(prefix.unwrap().path()).unwrap() {
            // A sweep may have come first.
            if let Ok(file) = std::fs::File::open(blob.unwrap().path()) {
                file.set_modified(then).unwrap();
            }
        }
    }
}

/// Something that the sweep comes to last, and that nobody refers to: when it is gone, all is swept.
fn last_orphan() -> Vec<u8> {
    let contents = (0u32..).map(|n| n.to_le_bytes().to_vec());
    contents.into_iter().find(|content| sha256(content)[0] == 0xff).unwrap()
}

async fn swept(dir: &Path, orphan: &[u8]) {
    let orphan = path_of(dir, orphan);
    eventually("the sweep", async || (!orphan.exists()).then_some(())).await;
}

#[tokio::test]
async fn a_start_removes_old_blobs_but_those_of_jobs_and_those_asked_for_since() {
    let coordinator = Coordinator::start().await;
    let manifest = manifest(&[("a", b"tree 1"), ("b", b"tree 2")]);
    let (encoded, orphan) = (manifest.encode(), last_orphan());
    let needed: [&[u8]; 4] = [&encoded, b"tree 1", b"tree 2", b"returned"];
    store(&coordinator.channel, &needed).await.unwrap();
    store(&coordinator.channel, &[b"not needed", &orphan]).await.unwrap();
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    let job = submit(&coordinator, with_tree("a", manifest.reference())).await.unwrap();
    agent.run().await;
    agent.report_artifacts(&job.id, 1, vec![artifact("out", b"returned")]).await.unwrap();
    agent.end(0).await;
    let dir = coordinator.stop().await;
    age(dir.path());

    let coordinator = Coordinator::start_in(dir, |_| {}).await;
    swept(coordinator.dir.path(), &orphan).await;
    assert!(!path_of(coordinator.dir.path(), b"not needed").exists());
    // The next sweep is far.
    let wanted: [&[u8]; 3] = [b"asked for", b"fetched", b"sent again"];
    store(&coordinator.channel, &wanted).await.unwrap();
    store(&coordinator.channel, &[b"not asked for", &orphan]).await.unwrap();
    age(coordinator.dir.path());
    assert!(missing(&coordinator.channel, &wanted[..1]).await.is_empty());
    fetch(&coordinator.channel, &wanted[1..2]).await.unwrap();
    store(&coordinator.channel, &wanted[2..]).await.unwrap();

    let coordinator = Coordinator::start_in(coordinator.stop().await, |_| {}).await;
    swept(coordinator.dir.path(), &orphan).await;
    assert!(!path_of(coordinator.dir.path(), b"not asked for").exists());
    assert!(missing(&coordinator.channel, &wanted).await.is_empty());
    assert!(missing(&coordinator.channel, &needed).await.is_empty());
    coordinator.stop().await;
}

/// Waits until a sweep has ended that began after everything before this.
async fn swept_from_now_on(coordinator: &Coordinator, orphan: &[u8]) {
    // The first one may have begun before.
    for _ in 0..2 {
        store(&coordinator.channel, &[orphan]).await.unwrap();
        let then = SystemTime::now() - Duration::from_secs(25 * 3600);
        let path = path_of(coordinator.dir.path(), orphan);
        // It may be gone already.
        if let Ok(file) = std::fs::File::open(path) {
            file.set_modified(then).unwrap();
        }
        swept(coordinator.dir.path(), orphan).await;
    }
}

#[tokio::test]
async fn uploads_and_submits_in_the_midst_of_sweeps_never_lose_a_part() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start_in(dir, |o| o.blobs.sweep_every = Duration::from_millis(1)).await;
    let (channel, orphan) = (coordinator.channel.clone(), last_orphan());
    let mut all = Vec::new();
    for round in 0..10 {
        let content = format!("tree {round}").into_bytes();
        let manifest = manifest(&[("a", b"of all"), ("b", &content)]);
        let parts: [&[u8]; 3] = [&manifest.encode(), b"of all", &content];
        store(&channel, &parts).await.unwrap();
        // From here on each part may be swept, until it is asked for.
        age(coordinator.dir.path());
        let lacking = missing(&channel, &parts).await;
        let lacking = parts.into_iter().filter(|part| lacking.contains(&sha256(part))).collect::<Vec<_>>();
        store(&channel, &lacking).await.unwrap();
        submit(&coordinator, with_tree(&format!("job-{round}"), manifest.reference())).await.unwrap();
        all.extend(parts.map(<[u8]>::to_vec));
        swept_from_now_on(&coordinator, &orphan).await;
    }
    age(coordinator.dir.path());
    swept_from_now_on(&coordinator, &orphan).await;
    let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    assert!(missing(&channel, &all).await.is_empty());
    coordinator.stop().await;
}

#[tokio::test]
async fn the_files_of_a_job_go_when_it_is_forgotten() {
    // Thousands of commits: quick where nothing waits for a disk.
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let coordinator = Coordinator::start_in(dir, |o| o.blobs.sweep_every = Duration::from_millis(100)).await;
    let manifest = manifest(&[("a", b"tree")]);
    store(&coordinator.channel, &[&manifest.encode(), b"tree", b"returned"]).await.unwrap();
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    let job = submit(&coordinator, with_tree("a", manifest.reference())).await.unwrap();
    agent.run().await;
    agent.report_artifacts(&job.id, 1, vec![artifact("out", b"returned")]).await.unwrap();
    agent.end(0).await;
    drop(agent);
    // From then on nothing is placed.
    eventually("the end of the session", async || {
        let nodes = coordinator.cluster().list_nodes(v1::ListNodesRequest {}).await.unwrap();
        (nodes.into_inner().nodes[0].state() != v1::NodeState::Ready).then_some(())
    })
    .await;
    age(coordinator.dir.path());
    // As many as are remembered.
    for n in 0..1_000 {
        let job = coordinator.submit(&format!("b{n}")).await.id;
        coordinator.jobs().stop_job(v1::StopJobRequest { job, grace_ms: None }).await.unwrap();
    }
    let gone = v1::GetJobRequest { job: job.id };
    assert_eq!(reason(coordinator.jobs().get_job(gone).await), "UNKNOWN_JOB");
    for content in [&manifest.encode(), b"tree".as_slice(), b"returned"] {
        swept(coordinator.dir.path(), content).await;
    }
    coordinator.stop().await;
}

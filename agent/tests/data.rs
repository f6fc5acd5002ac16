//! What flows besides control: lines, checkpoints, and the trainer's own socket.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::path::PathBuf;

use convoke_model::{CheckpointRef, DesiredReplica, Generation, ReplicaPhase, Step, TaskPhase};
use convoke_proto::v1::trainer_service_client::TrainerServiceClient;
use convoke_proto::{PROTOCOL_VERSION, reason, refusal, v1};
use convoke_transport::connect_unix;
use support::{Coordinator, Site, running, shell, until};
use tonic::Code;
use tonic::transport::Channel;

fn output(job: &str, rank: u32) -> (String, u64, u32, i32) {
    (job.into(), 1, rank, v1::StreamKind::Output.into())
}

fn metrics(job: &str, rank: u32) -> (String, u64, u32, i32) {
    (job.into(), 1, rank, v1::StreamKind::Metrics.into())
}

async fn wait_ended(coordinator: &Coordinator, replica: &DesiredReplica) {
    coordinator.wait_replica(replica, "the end", |r| (r.phase == ReplicaPhase::Ended).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_arrives_once_and_in_order_though_both_sides_die_in_between() {
    let (mut coordinator, site) = (Coordinator::start().await, Site::new());
    let agent = site.agent(&coordinator.url());
    let go = site.path("go");
    let script = format!(
        "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; echo '{{\"step\": 1}}' >> $CONVOKE_METRICS; \
         while [ ! -e {} ]; do sleep 0.05; done; echo last >&2",
        go.display()
    );
    let replica = shell("j", 1, &["cpu-0"], &script);
    coordinator.want(&[running(&replica)]);
    coordinator.wait("lines", |m| (m.lines.get(&output("j", 0))?.len() >= 500).then_some(())).await;
    agent.kill();
    coordinator.stop().await;
    fs::write(&go, "").unwrap();
    let _agent = site.agent(&coordinator.url());
    coordinator.start_again().await;
    coordinator.wait("both ends", |m| (m.ended.len() == 2).then_some(())).await;
    let memory = coordinator.memory();
    let mut expected: Vec<String> = (0..500).map(|i| format!("line {i}")).collect();
    expected.push("last".into());
    assert_eq!(memory.lines[&output("j", 0)], expected);
    assert_eq!(memory.lines[&metrics("j", 0)], ["{\"step\": 1}"]);
}

/// Writes step 3 as a trainer should, then waits for `go`.
fn saver(site: &Site) -> DesiredReplica {
    let script = format!(
        "d=$CONVOKE_CHECKPOINT_DIR; mkdir -p $d/.tmp/sub; echo weights > $d/.tmp/model; echo x > $d/.tmp/sub/opt; \
         mv $d/.tmp $d/step-3; while [ ! -e {} ]; do sleep 0.05; done",
        site.path("go").display()
    );
    shell("j", 1, &["cpu-0", "cpu-1"], &script)
}

fn step_3(replica: &DesiredReplica) -> (CheckpointRef, u32) {
    (CheckpointRef { job: replica.job.clone(), generation: Generation(1), step: Step(3) }, 0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_step_is_uploaded_by_rank_0_alone() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    let replica = saver(&site);
    coordinator.want(&[running(&replica)]);
    let files = coordinator.wait("the upload", |m| m.uploads.get(&step_3(&replica)).cloned()).await;
    let expected = [("model".to_owned(), b"weights\n".to_vec()), ("sub/opt".to_owned(), b"x\n".to_vec())];
    assert_eq!(files, expected);
    fs::write(site.path("go"), "").unwrap();
    wait_ended(&coordinator, &replica).await;
    assert_eq!(coordinator.memory().upload_attempts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_found_no_coordinator_is_made_when_it_is_back_before_the_replica_ends() {
    let (mut coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    let refused = refusal(Code::Unavailable, "SHUTTING_DOWN", "come back later");
    coordinator.memory().refuse_upload = Some(refused);
    let replica = saver(&site);
    coordinator.want(&[running(&replica)]);
    coordinator.wait("a refused upload", |m| (m.upload_attempts > 0).then_some(())).await;
    coordinator.stop().await;
    fs::write(site.path("go"), "").unwrap();
    coordinator.memory().refuse_upload = None;
    coordinator.start_again().await;
    wait_ended(&coordinator, &replica).await;
    assert!(coordinator.memory().uploads.contains_key(&step_3(&replica)), "ended before it was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_generations_checkpoint_is_dropped_after_one_try() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    let refused = refusal(Code::FailedPrecondition, "STALE_GENERATION", "generation 2 is current");
    coordinator.memory().refuse_upload = Some(refused);
    let replica = saver(&site);
    fs::write(site.path("go"), "").unwrap();
    coordinator.want(&[running(&replica)]);
    wait_ended(&coordinator, &replica).await;
    assert_eq!(coordinator.memory().upload_attempts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_with_a_symbolic_link_is_refused_with_a_condition() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    let script = "cd $CONVOKE_CHECKPOINT_DIR; mkdir t; ln -s /etc/passwd t/model; mv t step-1";
    let replica = shell("j", 1, &["cpu-0"], script);
    coordinator.want(&[running(&replica)]);
    wait_ended(&coordinator, &replica).await;
    let bad = coordinator
        .wait("a condition", |m| {
            m.observed.as_ref()?.conditions.iter().find(|c| c.name == "BadCheckpoint").cloned()
        })
        .await;
    assert!(bad.message.contains("model"), "{bad:?}");
    assert_eq!(coordinator.memory().upload_attempts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_generation_finds_the_checkpoint_that_it_starts_from() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    let mut replica = shell("j", 1, &["cpu-0"], "cat $CONVOKE_RESUME_FROM/model.bin");
    replica.resume_from = Some(step_3(&replica).0);
    coordinator.want(&[running(&replica)]);
    let lines = coordinator.wait("its output", |m| m.lines.get(&output("j", 0)).cloned()).await;
    assert_eq!(lines, ["weights"]);
    wait_ended(&coordinator, &replica).await;
    coordinator.want(&[]);
    coordinator.wait("removal", |m| m.observed.as_ref()?.replicas.is_empty().then_some(())).await;
    let resume = site.state().join("resume");
    until("the copy's removal", || (fs::read_dir(&resume).ok()?.count() == 0).then_some(())).await;
}

/// The trainer socket that the task of `replica` was given.
async fn socket(site: &Site) -> TrainerServiceClient<Channel> {
    let path: PathBuf =
        until("the socket's path", || fs::read_to_string(site.path("socket")).ok()).await.into();
    until("the socket", || path.exists().then_some(())).await;
    TrainerServiceClient::new(connect_unix(&path).await.unwrap())
}

/// Tells the test where its socket is, and waits.
fn talker(site: &Site) -> DesiredReplica {
    let path = site.path("socket");
    let script =
        format!("printf %s $CONVOKE_SOCKET > {0}.tmp; mv {0}.tmp {0}; exec sleep 600", path.display());
    shell("j", 1, &["cpu-0"], &script)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_learns_its_world_and_trades_unique_ids_over_its_socket() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    coordinator.want(&[running(&talker(&site))]);
    let mut client = socket(&site).await;
    let join = v1::JoinRequest { protocol_version: PROTOCOL_VERSION };
    let world = client.join(join).await.unwrap().into_inner();
    assert_eq!((world.job_id.as_str(), world.generation, world.rank, world.world_size), ("j", 1, 0, 1));
    assert_eq!((world.master_addr.as_str(), world.master_port), ("127.0.0.1", 19_999));
    let wrong = client.join(v1::JoinRequest { protocol_version: 99 }).await.unwrap_err();
    assert_eq!(reason(&wrong).as_deref(), Some("WRONG_PROTOCOL"));

    let unique_id = bytes::Bytes::from(vec![7; 128]);
    let publish = v1::PublishIdRequest { group: "world".into(), unique_id: unique_id.clone() };
    client.publish_id(publish.clone()).await.unwrap();
    let got = client.await_id(v1::AwaitIdRequest { group: "world".into() }).await.unwrap().into_inner();
    assert_eq!(got.unique_id, unique_id);
    let twice = client.publish_id(publish).await.unwrap_err();
    assert_eq!(reason(&twice).as_deref(), Some("UNIQUE_ID_SET"), "the coordinator's reason is passed on");
    let short = v1::PublishIdRequest { group: "world".into(), unique_id: vec![7; 5].into() };
    assert_eq!(client.publish_id(short).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_commits_over_the_socket_reach_the_coordinator() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let _agent = site.agent(&coordinator.url());
    let replica = talker(&site);
    coordinator.want(&[running(&replica)]);
    let mut client = socket(&site).await;
    let record = v1::ReportedMetrics { step: 4, values: [("loss".to_owned(), 0.5)].into() };
    client.report_metrics(v1::ReportMetricsRequest { records: vec![record] }).await.unwrap();
    let lines = coordinator.wait("the metric", |m| m.lines.get(&metrics("j", 0)).cloned()).await;
    assert_eq!(lines, ["{\"loss\":0.5,\"step\":4}"]);

    let join = v1::JoinRequest { protocol_version: PROTOCOL_VERSION };
    let directory = PathBuf::from(client.join(join).await.unwrap().into_inner().checkpoint_dir);
    let early = client.commit_checkpoint(v1::CommitCheckpointRequest { step: 3 }).await.unwrap_err();
    assert_eq!(reason(&early).as_deref(), Some("NO_SUCH_STEP"));
    fs::create_dir_all(directory.join("step-3")).unwrap();
    fs::write(directory.join("step-3/model"), "w").unwrap();
    let committed = client.commit_checkpoint(v1::CommitCheckpointRequest { step: 3 }).await.unwrap();
    assert!(committed.into_inner().complete);
    assert!(coordinator.memory().uploads.contains_key(&step_3(&replica)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_there_again_after_the_agent_was_killed() {
    let (coordinator, site) = (Coordinator::start().await, Site::new());
    let agent = site.agent(&coordinator.url());
    let replica = talker(&site);
    coordinator.want(&[running(&replica)]);
    let mut client = socket(&site).await;
    let join = v1::JoinRequest { protocol_version: PROTOCOL_VERSION };
    let before = client.join(join).await.unwrap().into_inner();
    agent.kill();
    client.join(join).await.unwrap_err();
    let _agent = site.agent(&coordinator.url());
    let again = async {
        loop {
            match client.join(join).await {
                Ok(world) => return world.into_inner(),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    };
    let after = tokio::time::timeout(support::DEADLINE, again).await.expect("the socket did not come back");
    assert_eq!(before, after);
    let running = |p: &TaskPhase| matches!(p, TaskPhase::Running { .. });
    coordinator.wait_replica(&replica, "the task", |r| running(&r.tasks[0].phase).then_some(())).await;
}

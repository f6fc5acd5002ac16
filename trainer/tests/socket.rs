//! Joining through the agent's socket, with a stand-in for the agent.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by panicking")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use convoke_proto::v1::trainer_service_server::{TrainerService, TrainerServiceServer};
use convoke_proto::v1::*;
use convoke_trainer::collective::Collective;
use convoke_trainer::world::{World, join_with};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

const PATIENT: Duration = Duration::from_secs(20);

/// What all tasks' sockets share, as the coordinator's rendezvous does.
#[derive(Default)]
struct Shared {
    ids: watch::Sender<HashMap<String, Vec<u8>>>,
    metrics: Mutex<Vec<ReportedMetrics>>,
    committed: watch::Sender<Vec<u64>>,
    /// Calls that fail first, as while an agent restarts.
    failures: Mutex<u32>,
}

struct Task {
    rank: u32,
    world_size: u32,
    shared: Arc<Shared>,
}

#[tonic::async_trait]
impl TrainerService for Task {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        assert_eq!(request.get_ref().protocol_version, convoke_proto::PROTOCOL_VERSION);
        let mut failures = self.shared.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err(Status::unavailable("restarting"));
        }
        Ok(Response::new(JoinResponse {
            job_id: "job-1".to_owned(),
            generation: 7,
            rank: self.rank,
            world_size: self.world_size,
            address: "127.0.0.1".to_owned(),
            checkpoint_dir: "/checkpoints".to_owned(),
            ..JoinResponse::default()
        }))
    }

    async fn publish_id(
        &self,
        request: Request<PublishIdRequest>,
    ) -> Result<Response<PublishIdResponse>, Status> {
        let PublishIdRequest { group, unique_id } = request.into_inner();
        self.shared.ids.send_modify(|ids| {
            assert!(ids.insert(group, unique_id.to_vec()).is_none(), "published twice");
        });
        Ok(Response::new(PublishIdResponse {}))
    }

    async fn await_id(&self, request: Request<AwaitIdRequest>) -> Result<Response<AwaitIdResponse>, Status> {
        let group = request.into_inner().group;
        let mut ids = self.shared.ids.subscribe();
        let ids = ids.wait_for(|ids| ids.contains_key(&group)).await.unwrap();
        Ok(Response::new(AwaitIdResponse { unique_id: ids[&group].clone().into() }))
    }

    async fn report_metrics(
        &self,
        request: Request<ReportMetricsRequest>,
    ) -> Result<Response<ReportMetricsResponse>, Status> {
        self.shared.metrics.lock().unwrap().extend(request.into_inner().records);
        Ok(Response::new(ReportMetricsResponse {}))
    }

    async fn commit_checkpoint(
        &self,
        request: Request<CommitCheckpointRequest>,
    ) -> Result<Response<CommitCheckpointResponse>, Status> {
        self.shared.committed.send_modify(|steps| steps.push(request.get_ref().step));
        Ok(Response::new(CommitCheckpointResponse { complete: true }))
    }
}

/// Serves one task's socket for as long as the runtime lives.
fn serve(runtime: &tokio::runtime::Runtime, directory: &Path, task: Task) -> PathBuf {
    let socket = directory.join(format!("{}.sock", task.rank));
    let _entered = runtime.enter();
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    runtime.spawn(async move {
        let (_trigger, shutdown) = convoke_transport::shutdown();
        let routes = tonic::service::Routes::new(TrainerServiceServer::new(task));
        convoke_transport::serve_unix(listener, routes, shutdown).await.unwrap();
    });
    socket
}

fn join_at(socket: &Path) -> World {
    let socket = socket.to_str().unwrap().to_owned();
    join_with(|name| (name == "CONVOKE_SOCKET").then(|| socket.clone())).unwrap()
}

#[test]
fn ranks_join_through_their_sockets_and_find_each_other_by_the_brokered_id() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let shared = Arc::new(Shared { failures: Mutex::new(2), ..Shared::default() });
    let sockets: Vec<_> = (0..3)
        .map(|rank| {
            serve(&runtime, directory.path(), Task { rank, world_size: 3, shared: Arc::clone(&shared) })
        })
        .collect();
    let sums: Vec<f32> = std::thread::scope(|scope| {
        let rank = |socket: &PathBuf| {
            let socket = socket.clone();
            scope.spawn(move || {
                let world = join_at(&socket);
                assert_eq!((world.world_size, world.generation, world.job.as_str()), (3, 7, "job-1"));
                assert_eq!(world.checkpoint_dir.as_deref(), Some(Path::new("/checkpoints")));
                let mut sum = [world.rank as f32 + 1.0];
                world.ring(PATIENT).unwrap().all_reduce_sum(&mut sum).unwrap();
                sum[0]
            })
        };
        let threads: Vec<_> = sockets.iter().map(rank).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(sums, [6.0; 3]);
    assert_eq!(shared.ids.borrow()["world"].len(), 128);
}

#[test]
fn metrics_and_finished_checkpoints_reach_the_agent() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let shared = Arc::new(Shared::default());
    let socket =
        serve(&runtime, directory.path(), Task { rank: 0, world_size: 1, shared: Arc::clone(&shared) });
    let world = join_at(&socket);
    let mut metrics = world.metrics().unwrap();
    for step in 1..=600 {
        metrics.report(step, &[("loss", 1.0 / step as f64), ("broken", f64::NAN)]).unwrap();
    }
    metrics.announce_checkpoint(600);
    assert!(metrics.flush(PATIENT));
    let reported = shared.metrics.lock().unwrap();
    assert_eq!(reported.iter().map(|record| record.step).collect::<Vec<_>>(), (1..=600).collect::<Vec<_>>());
    assert_eq!(reported[9].values, HashMap::from([("loss".to_owned(), 0.1)]));
    let mut committed = shared.committed.subscribe();
    let seen = runtime.block_on(async {
        let seen = committed.wait_for(|steps| !steps.is_empty());
        tokio::time::timeout(PATIENT, seen).await.unwrap().unwrap().clone()
    });
    assert_eq!(seen, [600]);
}

#[test]
fn several_ranks_without_an_agent_are_refused_with_the_way_out() {
    let error = join_with(|name| (name == "WORLD_SIZE").then(|| "4".to_owned())).unwrap_err();
    assert!(error.to_string().contains("start the job with `convoke up`"), "{error}");
    let error = join_with(|name| (name == "RANK").then(|| "first".to_owned())).unwrap_err();
    assert!(error.to_string().contains("RANK=first is not a number"), "{error}");
}

#[test]
fn without_an_agent_a_trainer_is_a_world_of_one_and_metrics_go_to_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("metrics.jsonl");
    let path = file.to_str().unwrap().to_owned();
    let world = join_with(|name| (name == "CONVOKE_METRICS").then(|| path.clone())).unwrap();
    assert_eq!((world.rank, world.world_size), (0, 1));
    let mut metrics = world.metrics().unwrap();
    metrics.report(10, &[("loss", 0.5)]).unwrap();
    metrics.report(11, &[("loss", f64::INFINITY)]).unwrap();
    let text = std::fs::read_to_string(file).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, [serde_json::json!({"step": 10, "loss": 0.5}), serde_json::json!({"step": 11})]);
}

/// Starts a gang of four processes with an order for a failure, rank by rank.
fn gang(runtime: &tokio::runtime::Runtime, directory: &Path, order: &[&str]) -> Vec<Child> {
    let shared = Arc::new(Shared::default());
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/mnist/data");
    let start = |rank| {
        let socket = serve(runtime, directory, Task { rank, world_size: 4, shared: Arc::clone(&shared) });
        let mut command = Command::new(env!("CARGO_BIN_EXE_convoke-trainer"));
        command.env_clear().env("CONVOKE_SOCKET", socket).arg("--data").arg(&data).args(["--batch", "4"]);
        command.args(["--fail-rank", "2", "--fail-generation", "7"]).args(order);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    (0..4).map(start).collect()
}

/// Ends with code 4 and an error about rank 2.
fn assert_blames_rank_2(child: Child, how: &str) {
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("error: rank 2 (127.0.0.1:") && stderr.contains(how), "{stderr}");
}

#[test]
fn when_a_rank_dies_the_others_end_with_code_4_and_name_it() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut children = gang(&runtime, directory.path(), &["--fail-at-step", "3"]);
    assert_eq!(children.remove(2).wait().unwrap().code(), Some(3));
    for child in children {
        assert_blames_rank_2(child, "is gone");
    }
}

#[test]
fn when_a_rank_hangs_the_others_end_with_code_4_and_name_it() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let order = ["--hang-at-step", "3", "--peer-timeout", "5"];
    let mut children = gang(&runtime, directory.path(), &order);
    let mut hung = children.remove(2);
    for child in children {
        assert_blames_rank_2(child, "has not moved a byte within 5 s");
    }
    hung.kill().unwrap();
    hung.wait().unwrap();
}

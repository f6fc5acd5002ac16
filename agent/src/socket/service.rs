//! What a trainer can ask its agent.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use convoke_model::{GroupName, Step};
use convoke_proto::v1::trainer_service_server::TrainerService;
use convoke_proto::{PROTOCOL_VERSION, UNIQUE_ID_BYTES, refusal, v1};
use convoke_transport::Backoff;
use serde_json::{Map, Value};
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status};

use super::World;
use crate::blocking::blocking;
use crate::checkpoint::{Outcome, Watch};
use crate::host::Host;
use crate::link::{Client, will_pass};
use crate::replica::task_ranks;
use crate::runtime::TaskKey;
use crate::work::data_address;

/// How long the agent goes on asking the coordinator for a trainer, unless the trainer's own
/// deadline is shorter: a coordinator's restart fits in.
const RELAY_TIMEOUT: Duration = Duration::from_secs(600);
/// One call to the coordinator; a longer wait is made of several.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The service of one task.
pub struct Trainer {
    host: Arc<Host>,
    task: TaskKey,
    world: World,
    /// `None` for a task that writes no checkpoints.
    checkpoints: Option<Watch>,
}

impl Trainer {
    pub(super) fn new(host: Arc<Host>, task: TaskKey, world: World, checkpoints: Option<Watch>) -> Self {
        Self { host, task, world, checkpoints }
    }

    fn joined(&self) -> Result<v1::JoinResponse, Status> {
        let World { desired, rendezvous, paths, .. } = &self.world;
        let data = data_address(&self.host, desired)
            .map_err(|e| refusal(Code::FailedPrecondition, "NO_INTERFACE", e))?;
        let local_rank = task_ranks(desired).iter().position(|r| *r == self.task.rank).unwrap_or_default();
        Ok(v1::JoinResponse {
            job_id: desired.job.to_string(),
            job_name: desired.spec.name.to_string(),
            generation: desired.generation.0,
            node: self.host.node.to_string(),
            rank: self.task.rank.0,
            local_rank: u32::try_from(local_rank)
                .expect("device lists are bounded by MAX_DEVICES_PER_REPLICA"),
            world_size: rendezvous.world_size,
            local_world_size: desired.placement.local_world,
            node_rank: desired.placement.node_rank.0,
            node_count: desired.node_count,
            address: data.address.to_string(),
            master_addr: rendezvous.master_addr.to_string(),
            master_port: rendezvous.master_port.into(),
            checkpoint_dir: paths.checkpoints.inside.display().to_string(),
            resume_from: paths.resume.as_ref().map(|place| place.inside.display().to_string()),
            resume_step: paths.resume.as_ref().and(desired.resume_from.as_ref()).map(|r| r.step.0),
        })
    }

    /// Calls the coordinator until it answers: a passing failure is tried again.
    async fn relay<Q, R, F>(
        &self,
        request: Q,
        call: impl Fn(Client, Request<Q>) -> F + Send + Sync,
    ) -> Result<R, Status>
    where
        Q: Clone + Send + Sync,
        R: Send,
        F: Future<Output = Result<Response<R>, Status>> + Send,
    {
        let mut backoff = Backoff::default();
        loop {
            let failed = match self.host.link.calls().await {
                Ok(client) => match call(client, timed(request.clone())).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) => status,
                },
                Err(error) => Status::unavailable(error.to_string()),
            };
            if !will_pass(&failed) {
                return Err(passed_on(&failed));
            }
            backoff.pause().await;
        }
    }

    fn group(&self, name: &str) -> Result<GroupName, Status> {
        GroupName::new(name).map_err(|e| refusal(Code::InvalidArgument, "BAD_GROUP", e.to_string()))
    }
}

#[tonic::async_trait]
impl TrainerService for Trainer {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let theirs = request.into_inner().protocol_version;
        if theirs != PROTOCOL_VERSION {
            let message = format!(
                "the trainer speaks protocol {theirs}, its agent {PROTOCOL_VERSION}; build it against the SDK of this version"
            );
            return Err(refusal(Code::FailedPrecondition, "WRONG_PROTOCOL", message));
        }
        self.joined().map(Response::new)
    }

    async fn publish_id(
        &self,
        request: Request<v1::PublishIdRequest>,
    ) -> Result<Response<v1::PublishIdResponse>, Status> {
        let v1::PublishIdRequest { group, unique_id } = request.into_inner();
        let group = self.group(&group)?;
        if unique_id.len() != UNIQUE_ID_BYTES {
            let message = format!("a unique id has {UNIQUE_ID_BYTES} bytes, this one {}", unique_id.len());
            return Err(refusal(Code::InvalidArgument, "BAD_UNIQUE_ID", message));
        }
        let publish = v1::PublishUniqueIdRequest {
            job_id: self.task.replica.job.to_string(),
            generation: self.task.replica.generation.0,
            group: group.to_string(),
            unique_id,
        };
        let published =
            self.relay(publish, |mut client, request| async move { client.publish_unique_id(request).await });
        within(RELAY_TIMEOUT, published).await?;
        Ok(Response::new(v1::PublishIdResponse {}))
    }

    async fn await_id(
        &self,
        request: Request<v1::AwaitIdRequest>,
    ) -> Result<Response<v1::AwaitIdResponse>, Status> {
        let group = self.group(&request.into_inner().group)?;
        let get = v1::GetUniqueIdRequest {
            job_id: self.task.replica.job.to_string(),
            generation: self.task.replica.generation.0,
            group: group.to_string(),
        };
        let got = self.relay(get, |mut client, request| async move { client.get_unique_id(request).await });
        let unique_id = within(RELAY_TIMEOUT, got).await?.unique_id;
        Ok(Response::new(v1::AwaitIdResponse { unique_id }))
    }

    async fn report_metrics(
        &self,
        request: Request<v1::ReportMetricsRequest>,
    ) -> Result<Response<v1::ReportMetricsResponse>, Status> {
        let lines: String = request.into_inner().records.into_iter().map(metric_line).collect();
        let path = self.host.runtime.task_dir(&self.task).metrics();
        let written = tokio::task::spawn_blocking(move || {
            // One write, so that the trainer's own lines do not fall into the middle.
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            file.write_all(lines.as_bytes())?;
            file.sync_data()
        });
        written.await.map_err(std::io::Error::other).flatten().map_err(|e| {
            refusal(Code::Unavailable, "METRICS_NOT_WRITTEN", format!("metrics cannot be written: {e}"))
        })?;
        Ok(Response::new(v1::ReportMetricsResponse {}))
    }

    async fn commit_checkpoint(
        &self,
        request: Request<v1::CommitCheckpointRequest>,
    ) -> Result<Response<v1::CommitCheckpointResponse>, Status> {
        let step = Step(request.into_inner().step);
        let Some(checkpoints) = &self.checkpoints else {
            let message =
                "only rank 0 writes this job's checkpoints; set x-convoke.checkpoint.shards: all otherwise";
            return Err(refusal(Code::FailedPrecondition, "NOT_A_WRITER", message));
        };
        let directory = self.world.paths.checkpoints.host.join(format!("step-{step}"));
        let looked = directory.clone();
        let is_there = blocking(move || looked.metadata().is_ok_and(|found| found.is_dir()));
        if !is_there.await.unwrap_or_default() && !checkpoints.is_settled(step) {
            let message = format!("{directory} is not there; rename it into place first");
            return Err(refusal(Code::NotFound, "NO_SUCH_STEP", message));
        }
        checkpoints.look();
        match timeout(RELAY_TIMEOUT, checkpoints.settled(step)).await {
            Ok(Some(Outcome::Stored { complete })) => {
                Ok(Response::new(v1::CommitCheckpointResponse { complete }))
            }
            Ok(Some(Outcome::Refused { message })) => {
                Err(refusal(Code::FailedPrecondition, "CHECKPOINT_REFUSED", message))
            }
            Ok(Some(Outcome::Earlier { .. }) | None) => {
                Err(refusal(Code::Unavailable, "NOT_STORED", "the agent is ending; ask again"))
            }
            Err(_) => Err(not_in_time()),
        }
    }
}

fn timed<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    timeout(limit, call).await.unwrap_or_else(|_| Err(not_in_time()))
}

fn not_in_time() -> Status {
    refusal(
        Code::DeadlineExceeded,
        "COORDINATOR_AWAY",
        format!("no answer from the coordinator within {} s", RELAY_TIMEOUT.as_secs()),
    )
}

/// The coordinator's refusal, without the headers of its connection.
fn passed_on(status: &Status) -> Status {
    Status::with_details(status.code(), status.message(), bytes::Bytes::copy_from_slice(status.details()))
}

/// A record as a trainer without the SDK would have written it.
fn metric_line(record: v1::ReportedMetrics) -> String {
    let mut line = Map::new();
    line.insert("step".to_owned(), record.step.into());
    let values = record.values.into_iter().filter(|(key, _)| key != "step");
    // JSON has no NaN; `null` is what is left of one.
    line.extend(values.map(|(key, value)| (key, Value::from(value))));
    format!("{}\n", Value::Object(line))
}

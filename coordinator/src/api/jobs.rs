//! `JobService`.

use std::time::Duration;

use convoke_core::{AlreadySo, Event};
use convoke_model::{IdempotencyKey, JobId, JobSpec};
use convoke_proto::v1;
use convoke_proto::v1::job_service_server::JobService;
use prost::Message as _;
use tonic::{Request, Response, Status, async_trait};

use super::outgoing::Streaming;
use super::select::Selection;
use super::{Context, convert, follow, refuse, watch};
use crate::owner::Accepted;

/// Jobs that one list holds at most, and their bytes: what a client takes in one message.
const LIST: usize = 1_000;
pub(super) const LIST_BYTES: usize = 3 << 20;

pub(super) fn spec(wire: Option<v1::JobSpec>) -> Result<JobSpec, Status> {
    let wire = wire.ok_or_else(|| refuse::bad_request("field spec is missing"))?;
    JobSpec::try_from(wire).map_err(refuse::invalid)
}

impl Context {
    /// The job that a person means, as it is now.
    pub(super) async fn job(&self, id: &JobId) -> Result<v1::Job, Status> {
        let asked = id.clone();
        let view = self.owner.read(move |core, _| core.job(&asked)).await?;
        view.map(convert::job).ok_or_else(|| refuse::unknown_job(id.as_str()))
    }

    async fn submit(&self, request: v1::SubmitJobRequest) -> Result<v1::SubmitJobResponse, Status> {
        let key = IdempotencyKey::new(&request.idempotency_key);
        let key = key.map_err(|e| refuse::bad_request(format!("field idempotency_key is invalid: {e}")))?;
        // Twelve random digits: collisions are unheard of, and the core would refuse one.
        let id = uuid::Uuid::new_v4().simple().to_string();
        let id = JobId::new(&id[..12]).expect("hexadecimal digits");
        let spec = spec(request.spec)?;
        let _content = self.hold_content(&spec).await?;
        let event = Event::Submit {
            id: id.clone(),
            key,
            spec: Box::new(spec),
            replace: request.replace,
            wait_for_nodes: request.wait_for_nodes,
        };
        let (id, already_submitted) = match self.owner.decide(event).await? {
            Accepted::AlreadySo(AlreadySo::Job(existing)) => (existing, true),
            Accepted::AlreadySo(AlreadySo::Nothing) | Accepted::Changed => (id, false),
        };
        Ok(v1::SubmitJobResponse { job: Some(self.job(&id).await?), already_submitted })
    }

    async fn plan(&self, request: v1::PlanJobRequest) -> Result<v1::PlanJobResponse, Status> {
        let spec = spec(request.spec)?;
        let before = request.before.into_iter().map(JobSpec::try_from).collect::<Result<Vec<_>, _>>();
        let before = before.map_err(refuse::invalid)?;
        let plan = self.owner.read(move |core, now| core.plan(now, &spec, &before)).await?;
        let plan = plan.map_err(crate::owner::Refused::Denied)?;
        Ok(match plan.placement {
            Ok(placement) => v1::PlanJobResponse {
                world_size: placement.world_size(),
                replicas: placement.replicas.into_iter().map(Into::into).collect(),
                reason: String::new(),
                never_fits: false,
            },
            Err(reason) => v1::PlanJobResponse { reason, never_fits: plan.never_fits, ..Default::default() },
        })
    }

    async fn list(&self, request: v1::ListJobsRequest) -> Result<Vec<v1::Job>, Status> {
        let jobs = self.owner.read(move |core, _| {
            let wanted = |job: &convoke_core::JobView| {
                (request.all || !job.state.is_final())
                    && (request.project.is_empty() || job.spec.project == request.project)
            };
            core.jobs().into_iter().filter(wanted).take(LIST).collect::<Vec<_>>()
        });
        let mut bytes = 0;
        let fits = |job: &v1::Job| {
            bytes += job.encoded_len();
            bytes <= LIST_BYTES
        };
        Ok(jobs.await?.into_iter().map(convert::job).take_while(fits).collect())
    }

    /// Finds the job, decides the event about it, and returns it as it is then.
    async fn change(&self, query: &str, event: impl FnOnce(JobId) -> Event) -> Result<v1::Job, Status> {
        let id = self.owner.find_job(query).await?;
        self.owner.decide(event(id.clone())).await?;
        self.job(&id).await
    }
}

#[async_trait]
impl JobService for Context {
    type WatchJobStream = Streaming<v1::WatchJobResponse>;
    type StreamLogsStream = Streaming<v1::StreamLogsResponse>;
    type StreamMetricsStream = Streaming<v1::StreamMetricsResponse>;

    async fn submit_job(
        &self,
        request: Request<v1::SubmitJobRequest>,
    ) -> Result<Response<v1::SubmitJobResponse>, Status> {
        self.submit(request.into_inner()).await.map(Response::new)
    }

    async fn plan_job(
        &self,
        request: Request<v1::PlanJobRequest>,
    ) -> Result<Response<v1::PlanJobResponse>, Status> {
        self.plan(request.into_inner()).await.map(Response::new)
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let jobs = self.list(request.into_inner()).await?;
        Ok(Response::new(v1::ListJobsResponse { jobs }))
    }

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let id = self.owner.find_job(&request.into_inner().job).await?;
        Ok(Response::new(v1::GetJobResponse { job: Some(self.job(&id).await?) }))
    }

    async fn watch_job(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let id = self.owner.find_job(&request.into_inner().job).await?;
        Ok(watch::watch_job(self, id))
    }

    async fn stop_job(
        &self,
        request: Request<v1::StopJobRequest>,
    ) -> Result<Response<v1::StopJobResponse>, Status> {
        let request = request.into_inner();
        let grace = request.grace_ms.map(Duration::from_millis);
        let job = self.change(&request.job, |job| Event::Stop { job, grace }).await?;
        Ok(Response::new(v1::StopJobResponse { job: Some(job) }))
    }

    async fn restart_job(
        &self,
        request: Request<v1::RestartJobRequest>,
    ) -> Result<Response<v1::RestartJobResponse>, Status> {
        let job = self.change(&request.into_inner().job, |job| Event::Restart { job }).await?;
        Ok(Response::new(v1::RestartJobResponse { job: Some(job) }))
    }

    async fn stream_logs(
        &self,
        request: Request<v1::StreamLogsRequest>,
    ) -> Result<Response<Self::StreamLogsStream>, Status> {
        let request = request.into_inner();
        let job = self.owner.find_job(&request.job).await?;
        let feed = self.telemetry.feed(&job).await?;
        Ok(follow::logs(self, job, feed, Selection::of_logs(&request)))
    }

    async fn stream_metrics(
        &self,
        request: Request<v1::StreamMetricsRequest>,
    ) -> Result<Response<Self::StreamMetricsStream>, Status> {
        let request = request.into_inner();
        let job = self.owner.find_job(&request.job).await?;
        let feed = self.telemetry.feed(&job).await?;
        Ok(follow::metrics(self, job, feed, Selection::of_metrics(&request)))
    }
}

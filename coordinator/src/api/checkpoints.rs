//! `CheckpointService`.

use convoke_model::{Checkpoint, CheckpointState};
use convoke_proto::v1;
use convoke_proto::v1::checkpoint_service_server::CheckpointService;
use tonic::{Request, Response, Status, async_trait};

use super::outgoing::Streaming;
use super::{Context, refuse, transfer};

/// The complete checkpoint of `step`, or the newest complete one.
fn choose(checkpoints: Vec<Checkpoint>, step: Option<u64>) -> Result<Checkpoint, Status> {
    let of_step = |c: &&Checkpoint| step.is_none_or(|step| c.reference.step.0 == step);
    let complete = |c: &&Checkpoint| c.state == CheckpointState::Complete;
    if let Some(found) = checkpoints.iter().filter(of_step).find(complete) {
        return Ok(found.clone());
    }
    let partial = checkpoints.iter().any(|c| of_step(&c));
    Err(refuse::no_checkpoint(match (step, partial) {
        (Some(step), true) => format!("the checkpoint of step {step} is not complete yet"),
        (Some(step), false) => {
            format!(
                "there is no checkpoint of step {step}; `convoke checkpoint ls JOB` lists those that there are"
            )
        }
        (None, _) => "the job has no complete checkpoint yet".to_owned(),
    }))
}

#[async_trait]
impl CheckpointService for Context {
    type PullCheckpointStream = Streaming<v1::PullCheckpointResponse>;

    async fn list_checkpoints(
        &self,
        request: Request<v1::ListCheckpointsRequest>,
    ) -> Result<Response<v1::ListCheckpointsResponse>, Status> {
        let checkpoints = self.checkpoints(&request.into_inner().job).await?;
        let checkpoints = checkpoints.into_iter().map(Into::into).collect();
        Ok(Response::new(v1::ListCheckpointsResponse { checkpoints }))
    }

    async fn pull_checkpoint(
        &self,
        request: Request<v1::PullCheckpointRequest>,
    ) -> Result<Response<Self::PullCheckpointStream>, Status> {
        let request = request.into_inner();
        let checkpoint = choose(self.checkpoints(&request.job).await?, request.step)?;
        transfer::send(self, checkpoint).await
    }
}

impl Context {
    async fn checkpoints(&self, job: &str) -> Result<Vec<Checkpoint>, Status> {
        let job = self.owner.find_job(job).await?;
        let found = self.owner.read(move |core, _| core.checkpoints(&job).into_iter().cloned().collect());
        Ok(found.await?)
    }
}

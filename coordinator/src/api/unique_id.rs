//! Brokering unique ids: published once by a group's rank 0, waited for by the others.

use std::time::Duration;

use convoke_core::Event;
use convoke_model::{Generation, GroupName, JobId};
use convoke_proto::v1;
use tokio::time::timeout;
use tonic::Status;

use super::{Context, refuse};
use crate::owner::Refused;

/// The longest wait of one call; its own deadline is usually shorter. The agent asks again.
const WAIT: Duration = Duration::from_secs(300);

struct Key {
    job: JobId,
    generation: Generation,
    group: GroupName,
}

fn key(job: &str, generation: u64, group: &str) -> Result<Key, Status> {
    let bad = |e: convoke_model::InvalidId| refuse::bad_request(e.to_string());
    Ok(Key {
        job: JobId::new(job).map_err(bad)?,
        generation: Generation(generation),
        group: GroupName::new(group).map_err(bad)?,
    })
}

pub(super) async fn publish(
    context: &Context,
    request: v1::PublishUniqueIdRequest,
) -> Result<v1::PublishUniqueIdResponse, Status> {
    let Key { job, generation, group } = key(&request.job_id, request.generation, &request.group)?;
    let id = request.unique_id.to_vec();
    context.owner.decide(Event::PublishUniqueId { job, generation, group, id }).await?;
    Ok(v1::PublishUniqueIdResponse {})
}

pub(super) async fn get(
    context: &Context,
    request: v1::GetUniqueIdRequest,
) -> Result<v1::GetUniqueIdResponse, Status> {
    let key = key(&request.job_id, request.generation, &request.group)?;
    let mut shutdown = context.shutdown.clone();
    tokio::select! {
        found = timeout(WAIT, wait(context, key)) => found.map_err(|_| refuse::no_unique_id_yet())?,
        () = shutdown.begun() => Err(refuse::shutting_down()),
    }
}

async fn wait(context: &Context, key: Key) -> Result<v1::GetUniqueIdResponse, Status> {
    let mut changes = context.outlets.jobs.watch(&key.job);
    loop {
        changes.mark_unchanged();
        let Key { job, generation, group } = &key;
        let (job, generation, group) = (job.clone(), *generation, group.clone());
        let found = context
            .owner
            .read(move |core, _| core.unique_id(&job, generation, &group).map(|id| id.map(|id| id.0)));
        if let Some(id) = found.await?.map_err(Refused::Denied)? {
            return Ok(v1::GetUniqueIdResponse { unique_id: id.to_vec().into() });
        }
        changes.changed().await.map_err(|_| refuse::shutting_down())?;
    }
}

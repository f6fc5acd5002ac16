//! `WatchJob`: the job after every change; changes that come faster than the client reads count as
//! one.

use convoke_model::JobId;
use convoke_proto::v1;
use tonic::{Response, Status};

use super::outgoing::{Outgoing, Streaming, stream};
use super::{Context, refuse};

pub(super) fn watch_job(context: &Context, job: JobId) -> Response<Streaming<v1::WatchJobResponse>> {
    let own = context.clone();
    stream(context, |outgoing| run(own, job, outgoing))
}

async fn run(context: Context, job: JobId, outgoing: Outgoing<v1::WatchJobResponse>) -> Result<(), Status> {
    let mut changes = context.outlets.jobs.watch(&job);
    let mut sent = None;
    loop {
        changes.mark_unchanged();
        let now = context.job(&job).await?;
        let last = now.state().is_final();
        if sent.as_ref() != Some(&now) {
            outgoing.send(v1::WatchJobResponse { job: Some(now.clone()) }).await?;
            sent = Some(now);
        }
        if last {
            return Ok(());
        }
        // Ends with the job, the client or the coordinator, whichever is first.
        changes.changed().await.map_err(|_| refuse::shutting_down())?;
    }
}

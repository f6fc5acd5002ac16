//! `StreamEvents`: the history from a position on.

use convoke_model::JobId;
use convoke_proto::v1;
use tonic::{Response, Status};

use super::outgoing::{Outgoing, Streaming, stream};
use super::{Context, refuse};

/// Events read, and sent, at a time.
const PAGE: usize = 256;

pub(super) fn stream_events(
    context: &Context,
    from: u64,
    follow: bool,
    job: Option<JobId>,
) -> Response<Streaming<v1::StreamEventsResponse>> {
    let own = context.clone();
    stream(context, move |outgoing| run(own, from, follow, job, outgoing))
}

async fn run(
    context: Context,
    from: u64,
    follow: bool,
    job: Option<JobId>,
    outgoing: Outgoing<v1::StreamEventsResponse>,
) -> Result<(), Status> {
    let mut news = context.outlets.events.subscribe();
    let mut next = from;
    loop {
        news.mark_unchanged();
        loop {
            let history = context.history.clone();
            let page = tokio::task::spawn_blocking(move || history.read(next, PAGE));
            let page = page.await.map_err(|e| refuse::crashed(&e))??;
            let Some((last, _)) = page.last() else { break };
            next = last + 1;
            let wanted = page.into_iter().filter(|(_, e)| job.is_none() || e.job == job);
            let events: Vec<_> = wanted.map(|(sequence, event)| v1::Event::new(sequence, event)).collect();
            if !events.is_empty() {
                outgoing.send(v1::StreamEventsResponse { events }).await?;
            }
        }
        if !follow {
            return Ok(());
        }
        // Ends with the client or the coordinator, whichever is first.
        news.changed().await.map_err(|_| refuse::shutting_down())?;
    }
}

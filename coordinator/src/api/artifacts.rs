//! `ReportArtifacts` and `StreamArtifacts`: files that came back from a job.

use convoke_core::{Core, Denied};
use convoke_model::{Artifact, Generation, JobId, NodeId};
use convoke_proto::v1;
use prost::Message as _;
use tonic::{Response, Status};

use super::outgoing::{Outgoing, Streaming, stream};
use super::patience::{Ahead, Patience};
use super::{Context, blocking, refuse};
use crate::owner::Refused;

/// Artifacts of one report.
const MAX_REPORT: usize = 1_000;

/// Artifacts read at a time, and the bytes of one message: paths have at most 4 KiB each.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 1 << 20;

struct Report {
    job: JobId,
    generation: Generation,
    node: NodeId,
    node_rank: u32,
    artifacts: Vec<Artifact>,
}

pub(super) async fn report(
    context: &Context,
    node: NodeId,
    request: v1::ReportArtifactsRequest,
) -> Result<v1::ReportArtifactsResponse, Status> {
    let report = strict(node, request)?;
    // A task of its own: a caller that goes away must not end the hold on the blobs before the
    // catalogue names them.
    let own = context.clone();
    let kept = tokio::spawn(async move { keep(&own, report).await });
    kept.await.map_err(|e| refuse::crashed(&e))?
}

fn strict(node: NodeId, request: v1::ReportArtifactsRequest) -> Result<Report, Status> {
    let count = request.artifacts.len();
    if count > MAX_REPORT {
        let message = format!("{count} artifacts in one report, more than {MAX_REPORT}; report in parts");
        return Err(refuse::bad_request(message));
    }
    let (generation, node_rank) = (request.generation, request.node_rank);
    let name = node.to_string();
    let fill = |artifact| v1::Artifact { generation, node_rank, node: name.clone(), ..artifact };
    let artifacts = request.artifacts.into_iter().map(fill).map(Artifact::try_from);
    Ok(Report {
        job: JobId::new(&request.job_id).map_err(|e| refuse::bad_request(e.to_string()))?,
        generation: Generation(generation),
        node,
        node_rank,
        artifacts: artifacts.collect::<Result<_, _>>().map_err(refuse::invalid)?,
    })
}

async fn keep(context: &Context, report: Report) -> Result<v1::ReportArtifactsResponse, Status> {
    let _referring = context.files.referring.read().await;
    let Report { job, generation, node, node_rank, artifacts } = report;
    let asked = job.clone();
    let accepted = context.owner.read(move |core, _| accepts(core, &asked, generation, &node, node_rank));
    accepted.await?.map_err(Refused::Denied)?;
    let files = context.files.clone();
    blocking(move || {
        for artifact in &artifacts {
            match files.blobs.size_checked(&artifact.digest, artifact.size)? {
                Some(size) if size == artifact.size => {}
                Some(size) => return Err(refuse::wrong_size(&artifact.path, artifact.size, size)),
                None => return Err(refuse::unstored_artifact(&artifact.path, artifact.digest)),
            }
        }
        Ok(files.catalogue.report(&job, &artifacts)?)
    })
    .await?;
    Ok(v1::ReportArtifactsResponse {})
}

/// Files are taken from the replicas of the job's current, or last, generation, also while they drain
/// and after their end: what was written last is what people want most.
fn accepts(
    core: &Core,
    job: &JobId,
    generation: Generation,
    node: &NodeId,
    node_rank: u32,
) -> Result<(), Denied> {
    let found = core.state().jobs.get(job).ok_or_else(|| Denied::UnknownJob(job.to_string()))?;
    let gang = found.run.gang.as_ref().filter(|_| found.run.generation == generation);
    let mut replicas = gang.into_iter().flat_map(|gang| &gang.placement.replicas);
    // A replica that this node does not have is one of another time, as an old generation is.
    match replicas.any(|replica| replica.node == *node && replica.node_rank.0 == node_rank) {
        true => Ok(()),
        false => Err(Denied::StaleGeneration { job: job.clone(), generation }),
    }
}

pub(super) fn follow(
    context: &Context,
    job: JobId,
    after: u64,
    follow: bool,
) -> Response<Streaming<v1::StreamArtifactsResponse>> {
    let own = context.clone();
    stream(context, move |outgoing| run(own, job, after, follow, outgoing))
}

async fn run(
    context: Context,
    job: JobId,
    after: u64,
    follow: bool,
    outgoing: Outgoing<v1::StreamArtifactsResponse>,
) -> Result<(), Status> {
    let mut news = context.files.catalogue.news.watch(&job);
    let mut changes = context.outlets.jobs.watch(&job);
    let mut patience = Patience::default();
    let mut next = after;
    loop {
        news.mark_unchanged();
        changes.mark_unchanged();
        // Asked before reading: what was reported by then is read below.
        let asked = job.clone();
        let ahead = match follow {
            true => context.owner.read(move |core, _| ahead(core, &asked)).await?,
            false => Ahead::Nothing,
        };
        let begin = next;
        loop {
            let (catalogue, asked) = (context.files.catalogue.clone(), job.clone());
            let page = blocking(move || catalogue.read(&asked, next, PAGE)).await?;
            let Some((last, _)) = page.last() else { break };
            next = *last;
            send(&outgoing, page).await?;
        }
        if !patience.wait(ahead, next > begin, &mut news, &mut changes).await {
            return Ok(());
        }
    }
}

/// What may still come. An agent reports a replica's files before it says that the replica has ended, unless it says
/// that some are on their way, and a job ends when all have said so, but for those whose nodes were given up.
fn ahead(core: &Core, job: &JobId) -> Ahead {
    let Some(found) = core.state().jobs.get(job) else { return Ahead::Nothing };
    if !found.run.phase.is_final() {
        return Ahead::Everything;
    }
    if core.state().is_returning_files(found) {
        return Ahead::OnTheWay;
    }
    let mut ghosts = core.state().nodes.values().flat_map(|node| &node.ghosts).map(|ghost| &ghost.key);
    match ghosts.any(|key| key.job == *job && key.generation == found.run.generation) {
        true => Ahead::LastItems,
        false => Ahead::Nothing,
    }
}

async fn send(
    outgoing: &Outgoing<v1::StreamArtifactsResponse>,
    page: Vec<(u64, Artifact)>,
) -> Result<(), Status> {
    let (mut artifacts, mut bytes) = (Vec::new(), 0);
    for (sequence, artifact) in page {
        let artifact = v1::Artifact { sequence, ..artifact.into() };
        bytes += artifact.encoded_len();
        artifacts.push(artifact);
        if bytes >= PAGE_BYTES {
            bytes = 0;
            outgoing.send(v1::StreamArtifactsResponse { artifacts: std::mem::take(&mut artifacts) }).await?;
        }
    }
    match artifacts.is_empty() {
        true => Ok(()),
        false => outgoing.send(v1::StreamArtifactsResponse { artifacts }).await,
    }
}

//! `FindSharedDirectories`: what the nodes see of directories that their caller sees.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use convoke_model::{Marker, NodeId};
use convoke_proto::v1;
use convoke_proto::v1::control_response::Message as ToAgent;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::{Context, jobs, refuse};
use crate::questions::Sights;

/// Directories of one question: a job mounts a handful.
const MAX_MARKERS: usize = 64;
/// How long the agents may take in all. They give their file systems less.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn find(
    context: &Context,
    request: v1::FindSharedDirectoriesRequest,
) -> Result<v1::FindSharedDirectoriesResponse, Status> {
    let (spec, markers) = (jobs::spec(request.spec)?, request.markers);
    if markers.len() > MAX_MARKERS {
        let message = format!("{} markers in one request, more than {MAX_MARKERS}", markers.len());
        return Err(refuse::bad_request(message));
    }
    for marker in &markers {
        Marker::try_from(marker.clone()).map_err(refuse::invalid)?;
    }
    let nodes = context.owner.read(move |core, now| core.could_hold(now, &spec)).await?;
    let nodes = nodes.map_err(|denied| Status::from(crate::owner::Refused::from(denied)))?;
    let mut question = context.questions.open(nodes.len()).ok_or_else(refuse::too_many_questions)?;
    let asked =
        ToAgent::LookForMarkers(v1::LookForMarkers { question: question.id, markers: markers.clone() });
    let is_asked = |node: &&NodeId| context.outlets.sessions.ask(node, asked.clone());
    let mut silent: BTreeSet<NodeId> = nodes.iter().filter(is_asked).cloned().collect();
    let mut sights: BTreeMap<_, Sights> = nodes.into_iter().map(|node| (node, Vec::new())).collect();
    let deadline = Instant::now() + PATIENCE;
    while !silent.is_empty()
        && let Ok(Some((node, seen))) = timeout_at(deadline, question.answers.recv()).await
    {
        silent.remove(&node);
        if let Some(place) = sights.get_mut(&node).filter(|_| seen.len() == markers.len()) {
            *place = seen;
        }
    }
    let nodes = sights.into_iter().map(|(node, sights)| v1::NodeSights { node: node.to_string(), sights });
    Ok(v1::FindSharedDirectoriesResponse { nodes: nodes.collect() })
}

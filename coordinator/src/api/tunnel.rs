//! `SessionService`: an operator's stream into a task, joined here with that of the task's agent.
//! Frames pass as they are.

use std::time::Duration;

use convoke_model::{JobId, NodeId, Rank, TaskPhase};
use convoke_proto::v1;
use convoke_proto::v1::control_response::Message as ToAgent;
use convoke_proto::v1::open_session_request::Message;
use convoke_proto::v1::session_service_server::SessionService;
use convoke_proto::v1::{open_tunnel, session_target, tunnel_frame::Frame};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, async_trait};

use super::outgoing::{Outgoing, Streaming, stream};
use super::{Context, refuse};
use crate::tunnels::AgentHalf;

/// How long a caller may take to say what it wants, and an agent to come: a dial and a look at its
/// engine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Frames towards the agent that wait: of at most 64 KiB, as few as keep the connection busy.
const FRAMES: usize = 4;

type FromOperator = tonic::Streaming<v1::OpenSessionRequest>;

#[async_trait]
impl SessionService for Context {
    type OpenSessionStream = Streaming<v1::OpenSessionResponse>;
    type TunnelStream = Streaming<v1::TunnelFrame>;

    async fn open_session(
        &self,
        request: Request<FromOperator>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
        let mut frames = request.into_inner();
        let first =
            timeout(PATIENCE, frames.message()).await.map_err(|_| refuse::stalled("the session"))??;
        let Some(Message::Open(target)) = first.and_then(|first| first.message) else {
            return Err(refuse::bad_request("the first message of a session must say what it opens"));
        };
        let agent = meet(self, target).await?;
        Ok(stream(self, |outgoing| join(frames, agent, outgoing)))
    }

    async fn tunnel(
        &self,
        request: Request<tonic::Streaming<v1::TunnelFrame>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let node = self.caller(request.metadata())?;
        let mut frames = request.into_inner();
        let first =
            timeout(PATIENCE, frames.message()).await.map_err(|_| refuse::stalled("the tunnel"))??;
        let Some(Frame::TunnelId(id)) = first.and_then(|first| first.frame) else {
            return Err(refuse::bad_request("the first frame of a tunnel must name it"));
        };
        let met = self.tunnels.meet(&id, &node).ok_or_else(refuse::unknown_tunnel)?;
        let (answers, received) = mpsc::channel(FRAMES);
        met.send(AgentHalf { frames, answers }).map_err(|_| refuse::unknown_tunnel())?;
        Ok(Response::new(ReceiverStream::new(received)))
    }
}

/// Finds the task and has its agent come.
async fn meet(context: &Context, target: v1::SessionTarget) -> Result<AgentHalf, Status> {
    let job = context.owner.find_job(&target.job).await?;
    let wanted = target.target.ok_or_else(|| refuse::bad_request("field target is missing"))?;
    let (node, task) = find(context, job, Rank(target.rank)).await?;
    let mut expected = context.tunnels.expect(node.clone()).ok_or_else(refuse::too_many_tunnels)?;
    let open = v1::OpenTunnel { tunnel_id: expected.id.clone(), target: Some(towards(wanted, task)) };
    if !context.outlets.sessions.ask(&node, ToAgent::OpenTunnel(open)) {
        return Err(refuse::node_unreachable(&node, "is not connected"));
    }
    match timeout(PATIENCE, &mut expected.agent).await {
        Ok(Ok(agent)) => Ok(agent),
        Ok(Err(_)) | Err(_) => Err(refuse::node_unreachable(&node, "did not answer within 10 s")),
    }
}

/// The running task of a rank, and its node.
async fn find(context: &Context, job: JobId, rank: Rank) -> Result<(NodeId, v1::TunnelTask), Status> {
    let asked = job.clone();
    let view = context.owner.read(move |core, _| core.job(&asked)).await?;
    let view = view.ok_or_else(|| refuse::unknown_job(job.as_str()))?;
    let name = view.spec.name.clone();
    let of_rank = |first: Rank, world: u32| (first.0..first.0 + world).contains(&rank.0);
    let replica = view.replicas.iter().find(|r| of_rank(r.placement.first_rank, r.placement.local_world));
    let replica =
        replica.ok_or_else(|| refuse::unknown_task(format!("job \"{name}\" has no rank {rank} now")))?;
    // A task may be several ranks: the last one that begins at or before it.
    let task = replica.tasks.iter().rfind(|task| task.rank <= rank);
    match task.filter(|task| matches!(task.phase, TaskPhase::Running { .. })) {
        Some(task) => {
            let found =
                v1::TunnelTask { job_id: job.into(), generation: view.generation.0, rank: task.rank.0 };
            Ok((replica.placement.node.clone(), found))
        }
        None => Err(refuse::unknown_task(format!("rank {rank} of job \"{name}\" does not run now"))),
    }
}

fn towards(target: session_target::Target, task: v1::TunnelTask) -> open_tunnel::Target {
    use session_target::Target;
    let task = Some(task);
    match target {
        Target::Exec(exec) => open_tunnel::Target::Exec(v1::TunnelExec { task, ..exec }),
        Target::Port(port) => open_tunnel::Target::Port(v1::TunnelPort { task, ..port }),
        Target::CopyFrom(copy) => open_tunnel::Target::CopyFrom(v1::TunnelCopyFrom { task, ..copy }),
        Target::CopyTo(copy) => open_tunnel::Target::CopyTo(v1::TunnelCopyTo { task, ..copy }),
    }
}

/// Passes frames both ways until the agent has said its last, or either side goes away. The two ways
/// go side by side: what reads only once its own words are taken must not wait for itself.
async fn join(
    operator: FromOperator,
    agent: AgentHalf,
    outgoing: Outgoing<v1::OpenSessionResponse>,
) -> Result<(), Status> {
    let AgentHalf { frames, answers } = agent;
    let mut said = std::pin::pin!(pass_out(frames, outgoing));
    tokio::select! {
        said = &mut said => return said,
        listened = pass_in(operator, &answers) => listened?,
    }
    // `answers` lives on: its end would be the operator's going away.
    said.await
}

/// From the agent to the operator, up to the agent's last frame.
async fn pass_out(
    mut frames: tonic::Streaming<v1::TunnelFrame>,
    outgoing: Outgoing<v1::OpenSessionResponse>,
) -> Result<(), Status> {
    while let Some(frame) = frames.message().await? {
        outgoing.send_patiently(v1::OpenSessionResponse { frame: Some(frame) }).await?;
    }
    Ok(())
}

/// From the operator to the agent, until either has had enough.
async fn pass_in(
    mut operator: FromOperator,
    answers: &mpsc::Sender<Result<v1::TunnelFrame, Status>>,
) -> Result<(), Status> {
    while let Some(request) = operator.message().await? {
        let Some(Message::Frame(frame)) = request.message else {
            return Err(refuse::bad_request("a session is opened once, and frames follow"));
        };
        // An agent that reads no more has said, or is about to say, why.
        if answers.send(Ok(frame)).await.is_err() {
            break;
        }
    }
    Ok(())
}

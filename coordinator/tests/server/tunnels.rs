//! Sessions that reach into a task, with an agent that the test plays.

use convoke_proto::v1;
use convoke_proto::v1::control_response::Message as ToAgent;
use convoke_proto::v1::open_session_request::Message;
use convoke_proto::v1::session_service_client::SessionServiceClient;
use convoke_proto::v1::session_target::Target;
use convoke_proto::v1::tunnel_frame::Frame;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::agent::Agent;
use crate::coordinator::{Coordinator, reason, soon};

fn frame(frame: Frame) -> v1::TunnelFrame {
    v1::TunnelFrame { frame: Some(frame) }
}

fn data(text: &str) -> v1::TunnelFrame {
    frame(Frame::Data(text.to_owned().into_bytes().into()))
}

fn exec(job: &str, rank: u32) -> v1::SessionTarget {
    let exec = v1::TunnelExec { command: vec!["sh".to_owned()], ..Default::default() };
    v1::SessionTarget { job: job.to_owned(), rank, target: Some(Target::Exec(exec)) }
}

type Operator = (mpsc::Sender<v1::OpenSessionRequest>, Streaming<v1::OpenSessionResponse>);

async fn open(channel: Channel, target: v1::SessionTarget) -> Result<Operator, Status> {
    let (requests, sent) = mpsc::channel(16);
    requests.send(v1::OpenSessionRequest { message: Some(Message::Open(target)) }).await.unwrap();
    let opened = SessionServiceClient::new(channel).open_session(ReceiverStream::new(sent)).await?;
    Ok((requests, opened.into_inner()))
}

/// The agent's answer to an announced tunnel.
async fn come(
    agent: &Agent,
    channel: Channel,
    id: &str,
) -> Result<(mpsc::Sender<v1::TunnelFrame>, Streaming<v1::TunnelFrame>), Status> {
    let (frames, sent) = mpsc::channel(16);
    frames.send(frame(Frame::TunnelId(id.to_owned()))).await.unwrap();
    let call = agent.call(ReceiverStream::new(sent));
    let answers = SessionServiceClient::new(channel).tunnel(call).await?;
    Ok((frames, answers.into_inner()))
}

async fn announced(agent: &mut Agent) -> v1::OpenTunnel {
    loop {
        if let ToAgent::OpenTunnel(tunnel) = agent.next().await.unwrap() {
            return tunnel;
        }
    }
}

#[tokio::test]
async fn frames_pass_both_ways_until_the_agent_has_said_its_last() {
    let coordinator = Coordinator::start().await;
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    let job = coordinator.submit("a").await;
    agent.run().await;
    let opening = tokio::spawn(open(coordinator.channel.clone(), exec("a", 0)));
    let tunnel = announced(&mut agent).await;
    let Some(v1::open_tunnel::Target::Exec(asked)) = tunnel.target else { panic!("{tunnel:?}") };
    assert_eq!(asked.task, Some(v1::TunnelTask { job_id: job.id, generation: 1, rank: 0 }));
    assert_eq!(asked.command, ["sh"]);
    let (to_operator, mut from_operator) =
        come(&agent, coordinator.channel.clone(), &tunnel.tunnel_id).await.unwrap();
    let again = come(&agent, coordinator.channel.clone(), &tunnel.tunnel_id).await;
    assert_eq!(reason(again.map(drop)), "UNKNOWN_TUNNEL");

    let (to_agent, mut from_agent) = soon("the session", opening).await.unwrap().unwrap();
    to_agent.send(v1::OpenSessionRequest { message: Some(Message::Frame(data("ls\n"))) }).await.unwrap();
    assert_eq!(soon("input", from_operator.message()).await.unwrap(), Some(data("ls\n")));
    to_operator.send(data("a.txt\n")).await.unwrap();
    to_operator.send(frame(Frame::Exit(v1::TunnelExit { code: 3 }))).await.unwrap();
    drop(to_operator);
    let mut received = Vec::new();
    while let Some(response) = soon("output", from_agent.message()).await.unwrap() {
        received.push(response.frame.unwrap());
    }
    assert_eq!(received, [data("a.txt\n"), frame(Frame::Exit(v1::TunnelExit { code: 3 }))]);
    assert_eq!(soon("the end of input", from_operator.message()).await.unwrap(), None);
    coordinator.stop().await;
}

/// An operator that listens only once it has said all, while the agent says far more than the connections
/// between them hold.
#[tokio::test]
async fn a_direction_that_is_full_does_not_stop_the_other() {
    const FRAMES: usize = 256;
    let coordinator = Coordinator::start().await;
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    coordinator.submit("a").await;
    agent.run().await;
    let opening = tokio::spawn(open(coordinator.channel.clone(), exec("a", 0)));
    let tunnel = announced(&mut agent).await;
    let (to_operator, mut from_operator) =
        come(&agent, coordinator.channel.clone(), &tunnel.tunnel_id).await.unwrap();
    let (to_agent, mut from_agent) = soon("the session", opening).await.unwrap().unwrap();
    let chunk = data(&"x".repeat(64 * 1024));

    let said = chunk.clone();
    let speaking = tokio::spawn(async move {
        for _ in 0..FRAMES {
            to_operator.send(said.clone()).await.unwrap();
        }
        to_operator
    });
    for _ in 0..FRAMES {
        let frame = v1::OpenSessionRequest { message: Some(Message::Frame(chunk.clone())) };
        soon("room for input", to_agent.send(frame)).await.unwrap();
        assert_eq!(soon("input", from_operator.message()).await.unwrap(), Some(chunk.clone()));
    }
    for _ in 0..FRAMES {
        let frame = soon("output", from_agent.message()).await.unwrap().unwrap().frame;
        assert_eq!(frame, Some(chunk.clone()));
    }
    drop(soon("the last of it", speaking).await.unwrap());
    coordinator.stop().await;
}

#[tokio::test]
async fn a_task_that_does_not_run_and_a_node_that_is_away_are_refused_by_name() {
    let coordinator = Coordinator::start().await;
    let mut agent = Agent::connect(coordinator.channel.clone(), "n1").await;
    coordinator.submit("a").await;
    let channel = || coordinator.channel.clone();
    assert_eq!(reason(open(channel(), exec("nobody", 0)).await.map(drop)), "UNKNOWN_JOB");
    assert_eq!(reason(open(channel(), exec("a", 0)).await.map(drop)), "UNKNOWN_TASK");
    agent.run().await;
    assert_eq!(reason(open(channel(), exec("a", 5)).await.map(drop)), "UNKNOWN_TASK");
    drop(agent);
    crate::coordinator::eventually("the agent's session is over", async || {
        let refused = open(channel(), exec("a", 0)).await.map(drop);
        (reason(refused) == "NODE_UNREACHABLE").then_some(())
    })
    .await;
    coordinator.stop().await;
}

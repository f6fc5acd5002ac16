//! Answering an announced tunnel.

use std::sync::Arc;
use std::time::Duration;

use convoke_model::ReplicaKey;
use convoke_proto::v1;
use convoke_proto::v1::open_tunnel::Target;
use convoke_proto::v1::tunnel_frame::Frame;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, info};

use super::frames::{self, Broken, FRAMES, In, Out};
use super::{connect, copy, exec};
use crate::engine::Engine;
use crate::host::Host;
use crate::runtime::{TaskKey, TaskStatus};

/// Tunnels at a time: a person has a few, a browser some dozens.
const TUNNELS: usize = 256;
/// The coordinator waits ten seconds for the call.
const CALL: Duration = Duration::from_secs(10);

/// Serves tunnels; cheap to clone.
#[derive(Clone)]
pub struct Tunnels {
    host: Arc<Host>,
    places: Arc<Semaphore>,
}

impl Tunnels {
    pub fn new(host: Arc<Host>) -> Self {
        Self { host, places: Arc::new(Semaphore::new(TUNNELS)) }
    }

    /// Begins to serve a tunnel, and returns at once.
    pub fn open(&self, tunnel: v1::OpenTunnel) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            // The operator learns it from the coordinator's patience.
            return info!("a tunnel was not opened: there are {TUNNELS} already");
        };
        let host = self.host.clone();
        tokio::spawn(async move {
            if let Err(problem) = serve(&host, tunnel).await {
                debug!("a tunnel was not opened: {problem}");
            }
            drop(place);
        });
    }
}

/// Calls back and serves; an error is a call that was not made.
async fn serve(host: &Host, tunnel: v1::OpenTunnel) -> Result<(), String> {
    let (frames, sent) = mpsc::channel(FRAMES);
    let output = Out(frames);
    let first = Frame::TunnelId(tunnel.tunnel_id);
    output.send(first).await.map_err(|e| e.to_string())?;
    let mut client = host.link.sessions().await.map_err(|e| e.to_string())?;
    let called = timeout(CALL, client.tunnel(ReceiverStream::new(sent))).await;
    let call = called.map_err(|_| "the coordinator does not answer".to_owned())?;
    let call = call.map_err(|status| status.message().to_owned())?.into_inner();
    let (input, mut reading) = frames::read(call);
    let Some(target) = tunnel.target else { return Err("it has no target".to_owned()) };
    // An engine or a task that takes nothing must not keep what its operator has left.
    let served = tokio::select! {
        served = dispatch(host, target, input, output.clone()) => served,
        () = output.gone() => Err(Broken::Gone),
    };
    match served {
        Ok(()) | Err(Broken::Gone) => {}
        Err(Broken::Refused(message)) => {
            let message = format!("node {}: {message}", host.node);
            // An operator that has gone needs no reason.
            let _ = output.send(Frame::Failure(message)).await;
        }
    }
    drop(output);
    // The coordinator ends the call once it has the last frame.
    let _ = timeout(CALL, reading.join_next()).await;
    Ok(())
}

async fn dispatch(host: &Host, target: Target, input: In, output: Out) -> Result<(), Broken> {
    match target {
        Target::Exec(mut asked) => {
            let (engine, container) = container(host, asked.task.take())?;
            exec::exec(engine.docker(), &container, asked, input, output).await
        }
        Target::Port(asked) => {
            let pid = process(host, asked.task)?;
            let port =
                u16::try_from(asked.port).map_err(|_| Broken::Refused("not a port number".to_owned()))?;
            connect::connect(pid, port, input, output).await
        }
        Target::CopyFrom(asked) => {
            let (engine, container) = container(host, asked.task)?;
            copy::copy_from(engine.docker(), &container, &asked.path, output).await
        }
        Target::CopyTo(asked) => {
            let (engine, container) = container(host, asked.task)?;
            // The engine answers when it has unpacked all of it, which takes as long as it takes to come.
            copy::copy_to(&engine.patient(), &container, &asked.path, input, output).await
        }
    }
}

fn found(host: &Host, task: Option<v1::TunnelTask>) -> Result<TaskKey, Broken> {
    let unknown = || Broken::Refused("the task does not run here any more".to_owned());
    let task = task.ok_or_else(unknown)?;
    let same = |key: &TaskKey| {
        let ReplicaKey { job, generation, .. } = &key.replica;
        (job.as_str(), generation.0, key.rank.0) == (&task.job_id, task.generation, task.rank)
    };
    host.runtime.tasks().into_iter().find(same).ok_or_else(unknown)
}

/// The container of a task, and the way to its engine.
fn container(host: &Host, task: Option<v1::TunnelTask>) -> Result<(Engine, String), Broken> {
    let key = found(host, task)?;
    let docker = host.docker.as_ref();
    let Some((docker, name)) = docker.and_then(|docker| Some((docker, docker.container(&key)?))) else {
        let message = "the task is a process of the host and no container; log in there instead";
        return Err(Broken::Refused(message.to_owned()));
    };
    let reached = docker.reached().map_err(|error| Broken::Refused(error.to_string()))?;
    Ok((reached.engine.clone(), name))
}

/// The main process of a task.
fn process(host: &Host, task: Option<v1::TunnelTask>) -> Result<u32, Broken> {
    match host.runtime.status(&found(host, task)?) {
        Some(TaskStatus::Running { pid, .. }) if pid != 0 => Ok(pid),
        _ => Err(Broken::Refused("the task does not run any more".to_owned())),
    }
}

//! Joining the job: who am I, and who are the others.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::CudaContext;

use crate::agent::{Agent, AgentError};
use crate::collective::nccl::Nccl;
use crate::collective::tcp::{Options, Ring};
use crate::collective::{ConnectError, MemoryExchange};
use crate::metrics::Metrics;

/// A rank's place in one generation of a job.
#[derive(Debug, Clone)]
pub struct World {
    pub rank: u32,
    pub local_rank: u32,
    pub world_size: u32,
    pub local_world_size: u32,
    pub node_rank: u32,
    /// The job's id; empty when the trainer runs alone.
    pub job: String,
    /// 0 when the trainer runs alone.
    pub generation: u64,
    /// This rank's address on the data interface.
    pub address: IpAddr,
    /// A complete checkpoint's directory to start from.
    pub resume_from: Option<PathBuf>,
    /// Where finished `step-<n>/` directories go.
    pub checkpoint_dir: Option<PathBuf>,
    agent: Option<Arc<Agent>>,
    metrics_file: Option<PathBuf>,
}

/// Why a rank could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("cannot join the job")]
    Agent(#[from] AgentError),
    #[error("{variable}={value} is not {expected}: the agent sets it, leave it as it is")]
    BadVariable { variable: &'static str, value: String, expected: &'static str },
    #[error(
        "WORLD_SIZE is {0} but CONVOKE_SOCKET is not set: \
         several ranks find each other through an agent; start the job with `convoke up`"
    )]
    NoAgent(u32),
}

/// Joins through the environment that the agent made; without one, as a world of one.
pub fn join() -> Result<World, JoinError> {
    join_with(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

/// As [`join`], from these variables.
pub fn join_with(variable: impl Fn(&str) -> Option<String>) -> Result<World, JoinError> {
    let number = |name: &'static str, default: u32| match variable(name) {
        None => Ok(default),
        Some(value) => {
            value.parse().map_err(|_| JoinError::BadVariable { variable: name, value, expected: "a number" })
        }
    };
    let mut world = World {
        rank: number("RANK", 0)?,
        local_rank: number("LOCAL_RANK", 0)?,
        world_size: number("WORLD_SIZE", 1)?,
        local_world_size: number("LOCAL_WORLD_SIZE", 1)?,
        node_rank: number("NODE_RANK", 0)?,
        job: variable("CONVOKE_JOB").unwrap_or_default(),
        generation: u64::from(number("CONVOKE_GENERATION", 0)?),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        resume_from: variable("CONVOKE_RESUME_FROM").map(PathBuf::from),
        checkpoint_dir: variable("CONVOKE_CHECKPOINT_DIR").map(PathBuf::from),
        agent: None,
        metrics_file: variable("CONVOKE_METRICS").map(PathBuf::from),
    };
    let mut master = variable("MASTER_ADDR");
    let mut own = variable("CONVOKE_ADDRESS");
    match variable("CONVOKE_SOCKET") {
        None if world.world_size > 1 => return Err(JoinError::NoAgent(world.world_size)),
        None => {}
        Some(socket) => {
            let agent = Agent::connect(socket.as_ref())?;
            let joined = agent.join()?;
            let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            own = own.or(given(&joined.address));
            master = given(&joined.master_addr).or(master);
            world.take(joined);
            world.agent = Some(Arc::new(agent));
        }
    }
    world.address = match own {
        Some(own) => own.parse().map_err(|_| JoinError::BadVariable {
            variable: "CONVOKE_ADDRESS",
            value: own,
            expected: "an IP address",
        })?,
        None => address_towards(master.as_deref()),
    };
    Ok(world)
}

/// The local address from which `master` is reached; loopback if that cannot be told. Connecting a
/// UDP socket chooses a route and sends nothing.
fn address_towards(master: Option<&str>) -> IpAddr {
    let route = |master: &str| {
        let master = (master, 9);
        let socket = UdpSocket::bind("0.0.0.0:0").and_then(|s| s.connect(master).map(|()| s));
        socket.or_else(|_| UdpSocket::bind("[::]:0").and_then(|s| s.connect(master).map(|()| s)))
    };
    let local = master.and_then(|master| route(master).and_then(|socket| socket.local_addr()).ok());
    local.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

impl World {
    fn take(&mut self, joined: convoke_proto::v1::JoinResponse) {
        self.rank = joined.rank;
        self.local_rank = joined.local_rank;
        self.world_size = joined.world_size;
        self.local_world_size = joined.local_world_size;
        self.node_rank = joined.node_rank;
        self.job = joined.job_id;
        self.generation = joined.generation;
        if !joined.checkpoint_dir.is_empty() {
            self.checkpoint_dir = Some(joined.checkpoint_dir.into());
        }
        if let Some(resume_from) = joined.resume_from.filter(|path| !path.is_empty()) {
            self.resume_from = Some(resume_from.into());
        }
    }

    fn options(&self, timeout: Duration) -> Options {
        Options {
            rank: self.rank,
            world_size: self.world_size,
            address: self.address,
            group: "world".to_owned(),
            // The ranks of a generation are released together, but the unique id passes through the
            // coordinator, which may be restarting, and a host may have a large data set to page in.
            connect_timeout: Duration::from_secs(300),
            timeout,
        }
    }

    /// A communicator over all ranks. A peer that moves no byte for `timeout` counts as lost.
    pub fn ring(&self, timeout: Duration) -> Result<Ring, ConnectError> {
        let options = self.options(timeout);
        match &self.agent {
            Some(agent) => Ring::connect(&options, agent.as_ref()),
            None => Ring::connect(&options, &MemoryExchange::default()),
        }
    }

    /// A communicator over all ranks' GPUs, `context`'s being this one's. A step that other ranks do not
    /// take within `timeout` ends it.
    pub fn nccl(&self, context: &Arc<CudaContext>, timeout: Duration) -> Result<Nccl, ConnectError> {
        let options = self.options(timeout);
        match &self.agent {
            Some(agent) => Nccl::connect(&options, agent.as_ref(), context),
            None => Nccl::connect(&options, &MemoryExchange::default(), context),
        }
    }

    /// Where this rank's metrics go: the agent's socket, else `$CONVOKE_METRICS`, else nowhere.
    pub fn metrics(&self) -> std::io::Result<Metrics> {
        match (&self.agent, &self.metrics_file) {
            (Some(agent), _) => Ok(Metrics::to_agent(Arc::clone(agent))),
            (None, Some(file)) => Metrics::to_file(file),
            (None, None) => Ok(Metrics::nowhere()),
        }
    }
}

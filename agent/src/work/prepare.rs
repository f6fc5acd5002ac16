//! What a replica needs before its gang is released, besides its devices: ports, a place to work in,
//! the checkpoint to start from.

use std::path::PathBuf;

use convoke_model::{DesiredReplica, Explanation, NodeAddress};

use crate::blocking::blocking;
use crate::checkpoint::fetch;
use crate::files::HostMount;
use crate::host::Host;
use crate::peers::ProbeListener;
use crate::ports::HeldPort;
use crate::replica::{Held, task_ranks};
use crate::work::paths::{Inside, checkpoints, make_checkpoint_dir};
use crate::work::{explain, inside, network};
use crate::{files, interfaces, runtime};

/// A replica that can be started.
#[derive(Debug)]
pub struct Prepared {
    pub held: Held,
    /// Held until the tasks start.
    pub ports: Vec<HeldPort>,
    /// Answers the peers of a gang, until the replica is over.
    pub probe: Option<ProbeListener>,
    pub mounts: Vec<HostMount>,
    /// `None` for processes of the host.
    pub inside: Option<Inside>,
    /// Directory of the checkpoint to start from.
    pub resume: Option<PathBuf>,
}

/// Why a replica cannot be started here.
#[derive(Debug)]
pub struct Refusal {
    pub message: String,
    /// Another try, perhaps on another node, may help.
    pub retryable: bool,
    /// Why, where that is recognised.
    pub explanation: Option<Box<Explanation>>,
}

impl Refusal {
    pub fn for_good(message: impl ToString) -> Self {
        Self { message: message.to_string(), retryable: false, explanation: None }
    }

    pub fn for_now(message: impl ToString) -> Self {
        Self { message: message.to_string(), retryable: true, explanation: None }
    }

    /// With what is to be changed, where that is known.
    pub async fn explained(mut self, host: &Host, desired: &DesiredReplica) -> Self {
        self.explanation = explain::refused(host, desired, &self.message).await;
        self
    }
}

/// Prepares a replica whose devices are reserved. What it holds is released when the result is
/// dropped.
pub async fn prepare(host: &Host, desired: &DesiredReplica) -> Result<Prepared, Refusal> {
    host.cleaner.proven(&desired.placement.devices).await.map_err(Refusal::for_now)?;
    let data = check(host, desired).await?;
    check_interfaces(desired)?;
    hold_and_fetch(host, desired, data).await
}

async fn check(host: &Host, desired: &DesiredReplica) -> Result<NodeAddress, Refusal> {
    let spec = &desired.spec;
    if spec.image.is_some() {
        inside::reached(host).await?;
        files::check(host, desired).await?;
        return network::data(host, desired).map_err(Refusal::for_good);
    }
    if !host.allow_processes {
        return Err(Refusal::for_good(format!(
            "node {} does not run host processes; start its agent with --allow-processes, or give the service an image",
            host.node
        )));
    }
    let directory = runtime::working_dir(spec);
    let looked = directory.clone();
    if !blocking(move || looked.is_dir()).await.map_err(Refusal::for_now)? {
        return Err(Refusal::for_good(format!(
            "the working directory {} does not exist on node {}; create it there, or set working_dir",
            directory.display(),
            host.node
        )));
    }
    interfaces::choose(&host.addresses, spec.interface.as_deref()).cloned().map_err(Refusal::for_good)
}

/// The interfaces that the job's own variables name, where its tasks see the node's.
fn check_interfaces(desired: &DesiredReplica) -> Result<(), Refusal> {
    if !network::is_the_nodes(desired) {
        return Ok(());
    }
    let names =
        interfaces::names().map_err(|e| Refusal::for_now(format!("cannot list its interfaces: {e}")))?;
    interfaces::check_variables(&desired.spec.environment, &names).map_err(Refusal::for_good)
}

async fn hold_and_fetch(
    host: &Host,
    desired: &DesiredReplica,
    data: NodeAddress,
) -> Result<Prepared, Refusal> {
    let key = desired.key();
    let ranks = task_ranks(desired);
    let (mounts, inside) = match inside::image(host, desired).await? {
        Some(image) => {
            let mounts = files::lay_out(host, desired, &image.user).await?;
            let inside = inside::prepare(host, desired, image, &mounts).await?;
            (mounts, Some(inside))
        }
        None => (Vec::new(), None),
    };
    let places: Vec<_> =
        ranks.iter().map(|rank| checkpoints(host, desired, inside.as_ref(), *rank)).collect();
    let contained = inside.clone();
    let made = blocking(move || {
        places.iter().try_for_each(|place| {
            make_checkpoint_dir(place, contained.as_ref())
                .map_err(|e| format!("cannot make the checkpoint directory {}: {e}", place.host))
        })
    });
    made.await.flatten().map_err(Refusal::for_now)?;
    // The first is the master port, then one for each task.
    let mut ports = host
        .ports()
        .hold(data.address, 1 + ranks.len())
        .map_err(|e| Refusal::for_now(format!("no ports on {}: {e}", data.address)))?;
    let resume = match &desired.resume_from {
        Some(reference) => {
            Some(fetch(host, &key, reference, desired.spec.checkpoint.shards).await.map_err(|e| {
                Refusal::for_now(format!(
                    "cannot fetch checkpoint step {} to start from: {e}",
                    reference.step
                ))
            })?)
        }
        None => None,
    };
    let probe = match desired.node_count {
        1 => None,
        _ => Some(ProbeListener::open(data.address, &host.node, &key).await.map_err(|e| {
            Refusal::for_now(format!("cannot listen on {} for its peers' probes: {e}", data.address))
        })?),
    };
    let numbers: Vec<u16> = ports.iter().map(HeldPort::port).collect();
    let (master_port, task_ports) =
        numbers.split_first().ok_or_else(|| Refusal::for_now("no ports were held"))?;
    let held = Held {
        address: data.address,
        master_port: *master_port,
        task_ports: task_ports.to_vec(),
        probe_port: probe.as_ref().map(ProbeListener::port),
        image: inside.as_ref().map(|inside| inside.image.clone()),
    };
    if !network::is_the_nodes(desired) {
        // Only numbers: they are ports of the container's own network.
        ports.clear();
    }
    Ok(Prepared { held, ports, probe, mounts, inside, resume })
}

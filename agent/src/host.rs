//! What every part of the agent works with: this node's identity, devices, ports and runtime, the
//! state directory, and the way to the coordinator.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use convoke_model::{NodeAddress, NodeId};

use crate::conditions::Conditions;
use crate::devices::gpus::Cleaner;
use crate::devices::{Devices, Gpus, Reservations};
use crate::files::Files;
use crate::home::Home;
use crate::link::Link;
use crate::ports::Ports;
use crate::progress::Progresses;
use crate::runtime::{DockerRuntime, Runtime};

pub struct Host {
    pub node: NodeId,
    pub home: Arc<Home>,
    /// The preferred one first.
    pub addresses: Vec<NodeAddress>,
    pub devices: Arc<dyn Devices>,
    /// The GPUs among them.
    pub gpus: Gpus,
    /// Proves them clean after each replica.
    pub cleaner: Cleaner,
    pub runtime: Arc<dyn Runtime>,
    /// What runs the containers among them; `None` on a node without an engine.
    pub docker: Option<DockerRuntime>,
    pub conditions: Conditions,
    /// What a replica's job should know, about [`crate::work::about`] it; placement does not mind.
    pub warnings: Conditions,
    /// How far preparations are.
    pub progresses: Progresses,
    pub link: Arc<Link>,
    pub files: Arc<Files>,
    /// Jobs without an image may run as processes of this host.
    pub allow_processes: bool,
    /// How long a gang may take to meet: imports, data and models are loaded before.
    pub meeting_patience: Duration,
    pub(crate) reservations: Mutex<Reservations>,
    pub(crate) ports: Mutex<Ports>,
}

impl Host {
    /// The book of reservations. Its holder does no I/O, so nobody waits long.
    pub fn reservations(&self) -> MutexGuard<'_, Reservations> {
        self.reservations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn ports(&self) -> MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! What a job that runs on several nodes must not fix by itself: the rendezvous is Convoke's.
//! Checked with the number of nodes that the job will have, overrides included.

use convoke_model::{DeviceCount, DeviceRequest, RankLayout};

use super::environment::Environment;
use super::launch::{Launch, Program};
use super::{accelerate, torchrun};
use crate::cursor::Cursor;
use crate::report::Report;

/// Variables that differ by node or name one; one value for all nodes is wrong on most of them.
const OF_THE_GANG: [&str; 18] = [
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "GROUP_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PET_NNODES",
    "PET_NODE_RANK",
    "PET_MASTER_ADDR",
    "PET_MASTER_PORT",
    "PET_STANDALONE",
    "TF_CONFIG",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_MCA_orte_hnp_uri",
];

pub(super) struct Gang<'a> {
    pub(super) service: &'a Cursor<'a>,
    pub(super) replicas: u32,
    pub(super) devices: &'a DeviceRequest,
    pub(super) layout: RankLayout,
    /// The key that the command line comes from.
    pub(super) entry: Option<Cursor<'a>>,
}

impl Gang<'_> {
    /// Checks the environment, the network and the command line; answers with the processes of each
    /// task where those fix them.
    pub(super) fn check(
        &self,
        environment: &Environment,
        launches: &[Launch],
        report: &mut Report,
    ) -> Option<u32> {
        self.environment(environment, report);
        self.network(launches, report);
        let entry = self.entry.as_ref()?;
        for launch in launches {
            self.launch(launch, entry, report);
        }
        if self.layout == RankLayout::PerGpu {
            return None;
        }
        // Of several in one script the first one trains, as far as anyone can tell.
        self.local_world(launches.first()?, environment, entry, report)
    }

    fn launch(&self, launch: &Launch, entry: &Cursor<'_>, report: &mut Report) {
        let program = match launch.program {
            Program::Torchrun => "torchrun",
            Program::Accelerate => "accelerate launch",
        };
        if self.layout == RankLayout::PerGpu {
            entry.refuse(
                report,
                format!(
                    "{program} starts a process per GPU itself, and so does x-convoke.ranks: per-gpu; \
                     start the script with python, or remove ranks"
                ),
            );
            return;
        }
        match launch.program {
            Program::Torchrun if self.replicas > 1 => torchrun::world(launch, self.replicas, entry, report),
            Program::Accelerate if self.replicas > 1 => {
                accelerate::world(launch, self.replicas, entry, report);
            }
            _ => {}
        }
        if launch.program == Program::Torchrun {
            torchrun::port(launch, entry, report);
        }
    }

    /// A gang's ranks reach each other at their nodes' addresses. Replicas that need no other one
    /// may do without, and only a launcher says for sure that they do.
    fn network(&self, launches: &[Launch], report: &mut Report) {
        let Some(mode) = self.service.get("network_mode").filter(|_| self.replicas > 1) else { return };
        let Some(word @ ("none" | "bridge" | "default")) = mode.node.as_str() else { return };
        let message = format!(
            "\"{word}\" keeps the ranks on {} nodes from reaching each other; remove it, gangs use the hosts' \
             networks",
            self.replicas
        );
        if launches.is_empty() {
            mode.note(report, message);
        } else {
            mode.refuse(report, message);
        }
    }

    fn environment(&self, environment: &Environment, report: &mut Report) {
        let path = format!("{}.environment", self.service.path);
        for (key, (value, place)) in environment {
            let several = match self.layout {
                _ if self.replicas > 1 => OF_THE_GANG.contains(&key.as_str()),
                RankLayout::PerGpu if self.devices.count != DeviceCount::Count(1) => {
                    matches!(key.as_str(), "RANK" | "LOCAL_RANK")
                }
                _ => false,
            };
            if several {
                let message = format!(
                    "{key}={value} would be the same for every rank of the gang; remove it, Convoke fills it in"
                );
                report.problem(Some(place), path.clone(), message);
            }
        }
    }

    fn local_world(
        &self,
        launch: &Launch,
        environment: &Environment,
        entry: &Cursor<'_>,
        report: &mut Report,
    ) -> Option<u32> {
        let (flag, text) = match launch.program {
            Program::Torchrun => {
                let variable = || environment.get("PET_NPROC_PER_NODE").map(|(value, _)| value.as_str());
                let text = launch.value("nproc-per-node").or_else(variable)?;
                ("nproc_per_node", text.to_owned())
            }
            Program::Accelerate => ("num_processes", accelerate::processes(launch)?),
        };
        if matches!(text.as_str(), "gpu" | "auto" | "cpu") {
            return None;
        }
        let Some(count) = text.parse::<u32>().ok().filter(|n| *n > 0) else {
            let message = if text.contains('$') {
                format!("{flag} is {text}, which only the task will know; taken as one process per device")
            } else {
                entry.refuse(report, format!("{flag} is \"{text}\", not a number of processes"));
                return None;
            };
            entry.note(report, message);
            return None;
        };
        let devices = match &self.devices.count {
            DeviceCount::Count(n) => Some(*n).filter(|n| *n > 0),
            DeviceCount::Ids(ids) => u32::try_from(ids.len()).ok(),
            DeviceCount::All => None,
        };
        if let Some(devices) = devices
            && devices != count
        {
            entry.note(report, format!("{flag} is {count}, but a node reserves {devices} device(s)"));
        }
        Some(count)
    }
}

//! What a job that runs on several nodes must not fix by itself: the rendezvous is Convoke's.
//! Checked with the number of nodes that the job will have, overrides included.

use convoke_model::{DeviceCount, DeviceRequest, RankLayout};

use super::environment::Environment;
use super::torchrun::Torchrun;
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
}

impl Gang<'_> {
    /// Checks the environment and the command line; answers with the processes of each task where
    /// those fix them.
    pub(super) fn check(
        &self,
        environment: &Environment,
        torchrun: Option<&Torchrun>,
        report: &mut Report,
    ) -> Option<u32> {
        self.environment(environment, report);
        let torchrun = torchrun?;
        let entry = self.service.get("command").or_else(|| self.service.get("entrypoint"))?;
        if self.layout == RankLayout::PerGpu {
            entry.refuse(
                report,
                "torchrun starts a process per GPU itself, and so does x-convoke.ranks: per-gpu; \
                 start the script with python, or remove ranks",
            );
            return None;
        }
        if self.replicas > 1 {
            self.world(torchrun, &entry, report);
        }
        Self::port(torchrun, &entry, report);
        self.local_world(torchrun, environment, &entry, report)
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

    /// Flags that would keep the nodes of a gang from finding each other.
    fn world(&self, torchrun: &Torchrun, entry: &Cursor<'_>, report: &mut Report) {
        let nodes = self.replicas;
        if torchrun.standalone {
            entry.refuse(
                report,
                format!(
                    "torchrun --standalone would train {nodes} separate models, one on each of the {nodes} \
                     nodes; remove it, Convoke fills in the rendezvous"
                ),
            );
        }
        if let Some(nnodes) = &torchrun.nnodes
            && let Some((min, max)) = node_range(nnodes)
            && !(min..=max).contains(&nodes)
        {
            let effect = if max == 1 {
                format!("would train {nodes} separate models")
            } else {
                format!("does not fit a gang of {nodes} nodes")
            };
            entry.refuse(
                report,
                format!("torchrun --nnodes={nnodes} {effect}; remove it, Convoke fills in {nodes}"),
            );
        }
        for (flag, value) in [
            ("--node_rank", &torchrun.node_rank),
            ("--master_addr", &torchrun.master_addr),
            ("--rdzv_endpoint", &torchrun.rdzv_endpoint),
        ] {
            // `$$NODE_RANK` in a shell's script is the task's own variable by now.
            if let Some(value) = value
                && !value.contains('$')
            {
                entry.refuse(
                    report,
                    format!(
                        "torchrun {flag}={value} would be the same on all {nodes} nodes; remove it, \
                         Convoke fills it in"
                    ),
                );
            }
        }
    }

    /// A fixed port is the same on all nodes, and so works until something else has it.
    fn port(torchrun: &Torchrun, entry: &Cursor<'_>, report: &mut Report) {
        if let Some(port) = torchrun.master_port.as_ref().filter(|p| !p.contains('$')) {
            entry.note(
                report,
                format!(
                    "torchrun --master_port={port} fixes a port that may be taken; without it Convoke \
                     allocates a free one"
                ),
            );
        }
    }

    fn local_world(
        &self,
        torchrun: &Torchrun,
        environment: &Environment,
        entry: &Cursor<'_>,
        report: &mut Report,
    ) -> Option<u32> {
        let variable = || environment.get("PET_NPROC_PER_NODE").map(|(value, _)| value);
        let text = torchrun.nproc_per_node.as_ref().or_else(variable)?;
        if matches!(text.as_str(), "gpu" | "auto" | "cpu") {
            return None;
        }
        let Some(count) = text.parse::<u32>().ok().filter(|n| *n > 0) else {
            let message = if text.contains('$') {
                format!(
                    "nproc_per_node is {text}, which only the task will know; taken as one process per device"
                )
            } else {
                entry.refuse(report, format!("nproc_per_node is \"{text}\", not a number of processes"));
                return None;
            };
            entry.note(report, message);
            return None;
        };
        let devices = match &self.devices.count {
            DeviceCount::Count(n) => Some(*n),
            DeviceCount::Ids(ids) => u32::try_from(ids.len()).ok(),
            DeviceCount::All => None,
        };
        if let Some(devices) = devices
            && devices != count
        {
            entry.note(report, format!("nproc_per_node is {count}, but a node reserves {devices} device(s)"));
        }
        Some(count)
    }
}

/// `2` or `1:4`; nothing for what only a shell can know.
fn node_range(text: &str) -> Option<(u32, u32)> {
    match text.split_once(':') {
        Some((min, max)) => Some((min.parse().ok()?, max.parse().ok()?)),
        None => text.parse().ok().map(|n| (n, n)),
    }
}

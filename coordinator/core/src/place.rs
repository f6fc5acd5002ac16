//! Gang placement: a pure function from a spec and the free devices to a whole placement, or to
//! the reason why there is none.
//!
//! Replicas go to distinct nodes; those whose free GPUs are joined are taken first, then those that are
//! left with the fewest free devices, so that large gaps stay whole; ties go by name. Node ranks follow
//! node names, ranks are contiguous over them.

use std::collections::{BTreeMap, BTreeSet};

use convoke_model::{
    Constraint, ConstraintSubject, Device, DeviceCount, DeviceId, DeviceKind, JobSpec, NodeId, NodeInfo,
    NodeRank, Placement, Rank, ReplicaPlacement, RuntimeKind,
};

use crate::connect::{self, Cost};

/// A node as placement sees it.
#[derive(Debug, Clone)]
pub(crate) struct Candidate<'a> {
    pub(crate) info: &'a NodeInfo,
    /// Why nothing may be placed on it now, as a predicate: "is suspect".
    pub(crate) barred: Option<String>,
    pub(crate) held: BTreeSet<DeviceId>,
    /// Devices that nothing may be placed on, with the name of what is wrong.
    pub(crate) blocked: BTreeMap<DeviceId, String>,
    /// Devices that are taken only where no better ones are free.
    pub(crate) doubtful: BTreeSet<DeviceId>,
    /// No container can be started on it now.
    pub(crate) engine_down: bool,
    /// Nobody can tell how its GPUs are.
    pub(crate) nvml_down: bool,
    /// Taken only where no other node is left.
    pub(crate) last_resort: bool,
}

struct Fit<'a> {
    node: &'a NodeId,
    devices: Vec<DeviceId>,
    last_resort: bool,
    cost: Cost,
    leftover: usize,
}

impl<'a> Fit<'a> {
    /// Nodes are taken in this order.
    fn preference(&self) -> impl Ord + use<'a> {
        let Cost { doubtful, unjoined, .. } = self.cost;
        (self.last_resort, doubtful, unjoined, self.leftover, self.node)
    }
}

/// The gang's placement, or why there is none: "needs 2 nodes with 4 free cpu slots; a has 2
/// free, b is suspect".
pub(crate) fn place(spec: &JobSpec, candidates: &[Candidate<'_>]) -> Result<Placement, String> {
    let mut fits = Vec::new();
    let mut notes = Vec::new();
    for candidate in candidates {
        match fit(spec, candidate) {
            Ok(fit) => fits.push(fit),
            Err(why) => notes.push(format!("{} {why}", candidate.info.id)),
        }
    }
    if fits.len() < spec.replicas as usize {
        return Err(explain(spec, fits.len(), &notes));
    }
    fits.sort_by_key(Fit::preference);
    fits.truncate(spec.replicas as usize);
    fits.sort_by_key(|fit| fit.node);
    Ok(rank(spec, fits))
}

/// True if the node could hold a replica.
pub(crate) fn is_eligible(spec: &JobSpec, candidate: &Candidate<'_>) -> bool {
    fit(spec, candidate).is_ok()
}

fn fit<'a>(spec: &JobSpec, candidate: &Candidate<'a>) -> Result<Fit<'a>, String> {
    let info = candidate.info;
    if let Some(constraint) = spec.constraints.iter().find(|c| !is_met(c, info)) {
        return Err(format!("does not meet {}", show(constraint)));
    }
    let runtime = if spec.image.is_some() { RuntimeKind::Docker } else { RuntimeKind::Process };
    if !info.runtimes.contains(&runtime) {
        return Err(match runtime {
            RuntimeKind::Docker => "runs no containers".to_owned(),
            RuntimeKind::Process => "allows no host processes".to_owned(),
        });
    }
    if let Some(why) = &candidate.barred {
        return Err(why.clone());
    }
    if runtime == RuntimeKind::Docker && candidate.engine_down {
        return Err("waits for its Docker Engine".to_owned());
    }
    if candidate.nvml_down
        && spec.devices.kind == DeviceKind::Gpu
        && spec.devices.count != DeviceCount::Count(0)
    {
        return Err("waits for NVML to answer".to_owned());
    }
    let mut all: Vec<&Device> = info.devices.iter().filter(|d| d.kind == spec.devices.kind).collect();
    all.sort_by_key(|d| (d.index, &d.id));
    let usable = |d: &&Device| !candidate.held.contains(&d.id) && !candidate.blocked.contains_key(&d.id);
    let free: Vec<&Device> = all.iter().copied().filter(usable).collect();
    let (devices, cost) = choose(&spec.devices.count, &all, &free, candidate)?;
    let leftover = free.len() - devices.len();
    Ok(Fit { node: &info.id, devices, last_resort: candidate.last_resort, cost, leftover })
}

fn choose(
    count: &DeviceCount,
    all: &[&Device],
    free: &[&Device],
    candidate: &Candidate<'_>,
) -> Result<(Vec<DeviceId>, Cost), String> {
    let Candidate { blocked, doubtful, .. } = candidate;
    let why = blocked_among(all, blocked);
    match count {
        DeviceCount::Count(n) if free.len() >= *n as usize => {
            Ok(connect::choose(free, *n as usize, doubtful))
        }
        DeviceCount::Count(_) if free.len() == all.len() => Err(format!("has {}", all.len())),
        DeviceCount::Count(_) => Err(format!("has {} free{why}", free.len())),
        DeviceCount::All if all.is_empty() => Err("has none".to_owned()),
        DeviceCount::All if free.len() < all.len() => {
            Err(format!("has {} of {} free{why}", free.len(), all.len()))
        }
        DeviceCount::All => Ok(connect::choose(free, free.len(), doubtful)),
        DeviceCount::Ids(wanted) => {
            let mut chosen = Vec::new();
            for name in wanted {
                let named = |d: &&&Device| d.id.as_str() == name || d.index.to_string() == *name;
                let device = all.iter().find(named).ok_or_else(|| format!("has no device {name}"))?;
                if let Some(problem) = blocked.get(&device.id) {
                    return Err(format!("has device {name} out of use ({problem})"));
                }
                if !free.iter().any(|d| d.id == device.id) {
                    return Err(format!("has device {name} in use"));
                }
                if chosen.contains(&device.id) {
                    return Err(format!("has device {name} under two of the names given"));
                }
                chosen.push(device.id.clone());
            }
            // The user's order is the order of local ranks.
            Ok((chosen, Cost::default()))
        }
    }
}

/// " (1: GpuLost)"; empty if none is.
fn blocked_among(all: &[&Device], blocked: &BTreeMap<DeviceId, String>) -> String {
    let found = all.iter().filter_map(|d| Some(format!("{}: {}", d.index, blocked.get(&d.id)?)));
    let found: Vec<String> = found.collect();
    if found.is_empty() { String::new() } else { format!(" ({})", found.join(", ")) }
}

fn rank(spec: &JobSpec, fits: Vec<Fit<'_>>) -> Placement {
    let mut first_rank = 0;
    let mut replicas = Vec::with_capacity(fits.len());
    for (node_rank, fit) in (0..).zip(fits) {
        let devices =
            u32::try_from(fit.devices.len()).expect("an inventory fits a message of some megabytes");
        let local_world = spec.local_world(devices);
        replicas.push(ReplicaPlacement {
            node: fit.node.clone(),
            node_rank: NodeRank(node_rank),
            devices: fit.devices,
            first_rank: Rank(first_rank),
            local_world,
        });
        first_rank += local_world;
    }
    Placement { replicas }
}

fn is_met(constraint: &Constraint, info: &NodeInfo) -> bool {
    let actual = match &constraint.subject {
        ConstraintSubject::Hostname => Some(info.hostname.as_str()),
        ConstraintSubject::Id => Some(info.id.as_str()),
        ConstraintSubject::Label(key) => info.labels.get(key).map(String::as_str),
    };
    (actual == Some(constraint.value.as_str())) == constraint.equal
}

fn show(constraint: &Constraint) -> String {
    let subject = match &constraint.subject {
        ConstraintSubject::Hostname => "node.hostname".to_owned(),
        ConstraintSubject::Id => "node.id".to_owned(),
        ConstraintSubject::Label(key) => format!("node.labels.{key}"),
    };
    format!("{subject} {} {}", if constraint.equal { "==" } else { "!=" }, constraint.value)
}

fn explain(spec: &JobSpec, fitting: usize, notes: &[String]) -> String {
    /// More nodes than a reader takes in are summed up.
    const SHOWN: usize = 6;
    let kind = match spec.devices.kind {
        DeviceKind::Gpu => "GPU",
        DeviceKind::Cpu => "cpu slot",
    };
    let what = match &spec.devices.count {
        DeviceCount::Count(0) => String::new(),
        DeviceCount::Count(n) => format!(" {n} free {}", plural(*n as usize, kind)),
        DeviceCount::All => format!(" every {kind} free"),
        DeviceCount::Ids(ids) => format!(" {} {} free", plural(ids.len(), kind), ids.join(", ")),
    };
    let replicas = spec.replicas as usize;
    let with = match (&spec.devices.count, replicas) {
        (DeviceCount::Count(0), 1) => "that runs containers",
        (DeviceCount::Count(0), _) => "that run containers",
        _ => "with",
    };
    let mut text = format!("needs {replicas} {} {with}{what}", plural(replicas, "node"));
    match (fitting, notes.len()) {
        (0, 0) => text.push_str("; no node is registered"),
        (0, _) => {}
        (n, _) => text.push_str(&format!("; only {n} fit{}", if n == 1 { "s" } else { "" })),
    }
    if !notes.is_empty() {
        text.push_str(&format!("; {}", notes[..notes.len().min(SHOWN)].join(", ")));
    }
    if notes.len() > SHOWN {
        text.push_str(&format!(", and {} more", notes.len() - SHOWN));
    }
    text
}

pub(crate) fn plural(n: usize, word: &str) -> String {
    if n == 1 { word.to_owned() } else { format!("{word}s") }
}

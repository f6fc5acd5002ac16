//! `x-convoke`: what Compose has no word for.

use std::time::Duration;

use convoke_model::{CheckpointPolicy, Collect, Framework, RankLayout, Shards};

use crate::cursor::Cursor;
use crate::report::Report;

const KNOWN: [&str; 10] = [
    "ranks",
    "framework",
    "priority",
    "checkpoint",
    "collect",
    "time_limit",
    "interface",
    "fence",
    "failure_grace",
    "preflight",
];

/// Survivors of a failed gang have nothing left to save that the last checkpoint does not hold.
const FAILURE_GRACE: Duration = Duration::from_secs(2);

/// A user who asks for fencing writes to shared storage, and must not believe that it is safe.
const NOT_FENCED: &str = "is not enforced on the nodes yet: the coordinator waits this long for a node that is cut off, but nothing ends the tasks there";

pub(super) struct Extension {
    pub(super) layout: RankLayout,
    pub(super) framework: Framework,
    pub(super) priority: i32,
    pub(super) checkpoint: CheckpointPolicy,
    pub(super) collect: Collect,
    pub(super) time_limit: Option<Duration>,
    pub(super) interface: Option<String>,
    pub(super) fence: Option<Duration>,
    pub(super) failure_grace: Duration,
    pub(super) preflight: bool,
}

impl Default for Extension {
    fn default() -> Self {
        Self {
            layout: RankLayout::default(),
            framework: Framework::default(),
            priority: 0,
            checkpoint: CheckpointPolicy::default(),
            collect: Collect::default(),
            time_limit: None,
            interface: None,
            fence: None,
            failure_grace: FAILURE_GRACE,
            preflight: true,
        }
    }
}

pub(super) fn read(service: &Cursor<'_>, report: &mut Report) -> Extension {
    let default = Extension::default();
    let Some(at) = service.get("x-convoke") else { return default };
    at.only(report, &KNOWN, &[]);
    let ranks = [("per-node", RankLayout::PerNode), ("per-gpu", RankLayout::PerGpu)];
    let frameworks =
        [("torch", Framework::Torch), ("jax", Framework::Jax), ("tensorflow", Framework::Tensorflow)];
    let collect = [("rank0", Collect::NodeRankZero), ("all", Collect::All)];
    let duration = |key, report: &mut Report| {
        let at = at.get(key)?;
        let duration = at.duration(report)?;
        if duration.is_zero() && key != "failure_grace" {
            at.refuse(report, "must be longer than zero");
        }
        Some(duration)
    };
    if let Some(fence) = at.get("fence") {
        fence.note(report, NOT_FENCED);
    }
    if let Some(preflight) = at.get("preflight") {
        preflight.note(report, "has no effect yet: nodes are not tested before a start");
    }
    Extension {
        layout: at.get("ranks").and_then(|r| r.word(report, &ranks)).unwrap_or_default(),
        framework: at.get("framework").and_then(|f| f.word(report, &frameworks)).unwrap_or_default(),
        priority: at.get("priority").and_then(|p| p.number(report, "a whole number")).unwrap_or_default(),
        checkpoint: at.get("checkpoint").map(|c| checkpoint(&c, report)).unwrap_or_default(),
        collect: at.get("collect").and_then(|c| c.word(report, &collect)).unwrap_or_default(),
        time_limit: duration("time_limit", report),
        interface: at.get("interface").and_then(|i| i.string(report)),
        fence: duration("fence", report),
        failure_grace: duration("failure_grace", report).unwrap_or(default.failure_grace),
        preflight: at.get("preflight").and_then(|p| p.boolean(report)).unwrap_or(default.preflight),
    }
}

fn checkpoint(at: &Cursor<'_>, report: &mut Report) -> CheckpointPolicy {
    let default = CheckpointPolicy::default();
    at.only(report, &["dir", "keep", "shards"], &[]);
    let shards = [("rank0", Shards::RankZero), ("all", Shards::All)];
    let keep = at.get("keep").and_then(|k| {
        let keep: u32 = k.number(report, "a number of checkpoints from 1 on")?;
        if keep == 0 {
            k.refuse(report, "must be at least 1: without a checkpoint nothing could resume");
        }
        Some(keep)
    });
    CheckpointPolicy {
        dir: at.get("dir").and_then(|d| d.string(report)),
        keep: keep.unwrap_or(default.keep),
        shards: at.get("shards").and_then(|s| s.word(report, &shards)).unwrap_or(default.shards),
    }
}

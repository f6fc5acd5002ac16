//! torchrun in a gang: Convoke fills in the rendezvous by variables, and flags beat variables.

use super::launch::Launch;
use crate::cursor::Cursor;
use crate::report::Report;

/// Flags that would keep the `nodes` of a gang from finding each other.
pub(super) fn world(launch: &Launch, nodes: u32, entry: &Cursor<'_>, report: &mut Report) {
    if launch.has("standalone") {
        entry.refuse(
            report,
            format!(
                "torchrun --standalone would train {nodes} separate models, one on each of the {nodes} \
                 nodes; remove it, Convoke fills in the rendezvous"
            ),
        );
    }
    if let Some(nnodes) = launch.value("nnodes")
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
    for flag in ["node-rank", "master-addr", "rdzv-endpoint"] {
        if let Some(value) = launch.fixed(flag) {
            let flag = flag.replace('-', "_");
            entry.refuse(
                report,
                format!(
                    "torchrun --{flag}={value} would be the same on all {nodes} nodes; remove it, Convoke \
                     fills it in"
                ),
            );
        }
    }
}

/// A fixed port is the same on all nodes, and so works until something else has it.
pub(super) fn port(launch: &Launch, entry: &Cursor<'_>, report: &mut Report) {
    if let Some(port) = launch.fixed("master-port") {
        entry.note(
            report,
            format!(
                "torchrun --master_port={port} fixes a port that may be taken; without it Convoke allocates \
                 a free one"
            ),
        );
    }
}

/// `2` or `1:4`; nothing for what only a shell can know.
fn node_range(text: &str) -> Option<(u32, u32)> {
    match text.split_once(':') {
        Some((min, max)) => Some((min.parse().ok()?, max.parse().ok()?)),
        None => text.parse().ok().map(|n| (n, n)),
    }
}

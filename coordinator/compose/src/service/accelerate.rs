//! `accelerate launch` in a gang. It starts the processes through torchrun's own code, which reads
//! the variables that Convoke fills in as long as no flag says more than one machine. It counts
//! processes over all machines, and meets at a port of its own choice.

use super::launch::Launch;
use crate::cursor::Cursor;
use crate::report::Report;

/// Flags that would keep the `nodes` of a gang from finding each other.
pub(super) fn world(launch: &Launch, nodes: u32, entry: &Cursor<'_>, report: &mut Report) {
    let machines = launch.fixed("num-machines").and_then(|n| n.parse::<u32>().ok()).unwrap_or(1);
    if machines > 1 && machines != nodes {
        entry.refuse(
            report,
            format!(
                "accelerate launch --num_machines={machines} does not fit a gang of {nodes} nodes; remove it, \
                 Convoke fills in {nodes}"
            ),
        );
    } else if machines > 1 && launch.value("machine-rank").is_none() {
        entry.refuse(
            report,
            format!(
                "accelerate launch --num_machines={machines} needs a --machine_rank that differs by node; \
                 remove both, Convoke fills in {nodes} nodes and their ranks"
            ),
        );
    }
    for flag in ["machine-rank", "main-process-ip"] {
        if let Some(value) = launch.fixed(flag) {
            let flag = flag.replace('-', "_");
            entry.refuse(
                report,
                format!(
                    "accelerate launch --{flag}={value} would be the same on all {nodes} nodes; remove it and \
                     --num_machines, Convoke fills them in"
                ),
            );
        }
    }
    match launch.value("main-process-port") {
        Some("0") => entry.refuse(
            report,
            format!(
                "accelerate launch --main_process_port=0 would choose another port on each of the {nodes} nodes; \
                 remove it"
            ),
        ),
        Some(_) => {}
        None => entry.note(
            report,
            "accelerate launch meets at port 29500 whatever Convoke allocates; where that port may be taken, \
             start the script with torchrun instead, or choose another with --main_process_port",
        ),
    }
}

/// The processes of one node, where the command line fixes them.
pub(super) fn processes(launch: &Launch) -> Option<String> {
    let all = launch.value("num-processes")?;
    let machines: u32 = launch.value("num-machines").unwrap_or("1").parse().ok()?;
    match all.parse::<u32>() {
        Ok(all) => Some((all / machines.max(1)).to_string()),
        Err(_) => Some(all.to_owned()),
    }
}

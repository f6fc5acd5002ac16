//! What a launcher says of the worker that failed first.

use crate::tail::Said;
use crate::traceback::{Chain, Weight};

/// Lines of torchrun's table on one worker.
const TABLE: usize = 8;

/// The worker that failed first, by its launcher's word.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FailedWorker {
    /// Its code, or minus its signal.
    pub(crate) exit: i32,
    pub(crate) rank: Option<u32>,
    /// Where it is said.
    pub(crate) lines: Vec<usize>,
}

impl FailedWorker {
    pub(crate) fn signal(&self) -> Option<i32> {
        (self.exit < 0).then_some(-self.exit)
    }
}

pub(crate) fn failed_worker(lines: &[Said], chains: &[Chain]) -> Option<FailedWorker> {
    table(lines).or_else(|| exception(lines, chains))
}

/// Reads the end of torchrun's table: `rank : 1 (local_rank: 1)`, `exitcode : -9 (pid: 827)`.
fn table(lines: &[Said]) -> Option<FailedWorker> {
    let from = lines.iter().rposition(|l| l.text.starts_with("Root Cause (first observed failure)"))?;
    let rows = || lines.iter().enumerate().skip(from).take(TABLE);
    let number = |name: &str| {
        rows().find_map(|(at, line)| {
            let (_, value) = line.text.trim().strip_prefix(name)?.split_once(": ")?;
            Some((at, value.split(' ').next()?.parse::<i32>().ok()?))
        })
    };
    let (at, exit) = number("exitcode")?;
    let rank = number("rank");
    let lines = rank.iter().map(|(at, _)| *at).chain([at]).collect();
    Some(FailedWorker { exit, rank: rank.and_then(|(_, rank)| u32::try_from(rank).ok()), lines })
}

/// Reads `Process 7 got signal: 15` (torchrun itself), `process 0 terminated with signal SIGKILL` (spawn).
fn exception(lines: &[Said], chains: &[Chain]) -> Option<FailedWorker> {
    let launcher = chains.iter().rfind(|chain| chain.weight == Weight::Launcher)?;
    let at = *launcher.last().message.first()?;
    let (_, after) = lines[at].text.split_once(" signal")?;
    let name = after.trim_start_matches([':', ' ']);
    let signal = name.parse().ok().or_else(|| crate::signal::number(name))?;
    Some(FailedWorker { exit: -signal, rank: None, lines: vec![at] })
}

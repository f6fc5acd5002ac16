//! What a launcher says of its workers that failed.

use std::sync::LazyLock;

use regex::Regex;

use crate::tail::{Said, Worker};
use crate::traceback::{Chain, Weight};

/// How a launcher ends the workers that it has left: not their own doing.
const ENDED_BY_LAUNCHER: i32 = -15;

/// `failed (exitcode: -11) local_rank: 1 (pid: 9) of binary: …`: torchrun's first word, before its table.
static FIRST_WORD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"failed \(exitcode: (?P<exit>-?[0-9]+)\) local_rank: (?P<local>[0-9]+) \(pid: ")
        .expect("the pattern is a constant and tests use it")
});

/// A worker that failed, by its launcher's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailedWorker {
    /// Its code, or minus its signal.
    pub(crate) exit: i32,
    pub(crate) rank: Option<u32>,
    pub(crate) local: Option<u32>,
    /// Where it is said.
    pub(crate) lines: Vec<usize>,
}

impl FailedWorker {
    pub(crate) fn signal(&self) -> Option<i32> {
        self.exit.checked_neg().filter(|signal| *signal > 0)
    }

    pub(crate) fn name(&self) -> Option<Worker> {
        self.rank.map(Worker::Rank).or(self.local.map(Worker::LocalRank))
    }

    pub(crate) fn is(&self, worker: Worker) -> bool {
        match worker {
            Worker::Rank(rank) => self.rank == Some(rank),
            Worker::LocalRank(local) => self.local == Some(local),
        }
    }

    /// Its launcher saw it fail, and did not end it.
    pub(crate) fn failed_by_itself(&self) -> bool {
        self.exit != ENDED_BY_LAUNCHER
    }
}

/// The first that was seen to fail, then the others.
pub(crate) fn failed_workers(lines: &[Said], chains: &[Chain]) -> Vec<FailedWorker> {
    let table = table(lines);
    if !table.is_empty() {
        return table;
    }
    first_word(lines).or_else(|| exception(lines, chains)).into_iter().collect()
}

/// Reads torchrun's table at the end, root cause first: `rank : 1 (local_rank: 1)`, `exitcode : -9 (pid: 827)`.
fn table(lines: &[Said]) -> Vec<FailedWorker> {
    let begins = |what: &str| lines.iter().rposition(|l| l.text.starts_with(what));
    let Some(root) = begins("Root Cause (first observed failure)") else { return Vec::new() };
    let others = begins("Failures:").filter(|at| *at < root).unwrap_or(root);
    let mut workers = rows(lines, root..lines.len());
    workers.extend(rows(lines, others..root));
    workers
}

fn rows(lines: &[Said], range: std::ops::Range<usize>) -> Vec<FailedWorker> {
    let mut rank: Option<(usize, Option<u32>, Option<u32>)> = None;
    let mut workers = Vec::new();
    for at in range {
        let text = lines[at].text.trim();
        let value = |name: &str| Some(text.strip_prefix(name)?.split_once(": ")?.1);
        if let Some(value) = value("rank") {
            let local =
                value.split_once("(local_rank: ").and_then(|(_, l)| l.trim_end_matches(')').parse().ok());
            rank = Some((at, value.split(' ').next().and_then(|r| r.parse().ok()), local));
        } else if let Some(exit) = value("exitcode").and_then(|v| v.split(' ').next()?.parse().ok()) {
            let (lines, rank, local) = match rank.take() {
                Some((before, rank, local)) => (vec![before, at], rank, local),
                None => (vec![at], None, None),
            };
            workers.push(FailedWorker { exit, rank, local, lines });
        }
    }
    workers
}

fn first_word(lines: &[Said]) -> Option<FailedWorker> {
    let read = |(at, line): (usize, &Said)| {
        let captures = FIRST_WORD.captures(&line.text)?;
        let (exit, local) = (captures["exit"].parse().ok()?, captures["local"].parse().ok());
        Some(FailedWorker { exit, rank: None, local, lines: vec![at] })
    };
    lines.iter().enumerate().rev().find_map(read)
}

/// Reads `Process 7 got signal: 15` (torchrun itself), `process 0 terminated with signal SIGKILL` (spawn).
fn exception(lines: &[Said], chains: &[Chain]) -> Option<FailedWorker> {
    let launcher = chains.iter().rfind(|chain| chain.weight == Weight::Launcher)?;
    let at = *launcher.last().message.first()?;
    let (_, after) = lines[at].text.split_once(" signal")?;
    let name = after.trim_start_matches([':', ' ']);
    let signal: i32 = name.parse().ok().or_else(|| crate::signal::number(name))?;
    Some(FailedWorker { exit: signal.checked_neg()?, rank: None, local: None, lines: vec![at] })
}

//! Why a task ended, or was refused: the evidence is gathered here, [`convoke_explain`] judges it.
//!
//! | evidence | from |
//! |---|---|
//! | exit, stop and its time, the engine's word that memory ran out | the runtime's exit |
//! | limits, peaks, `/dev/shm`, kills | [`crate::usage`], sampled while it ran; the job where it was not |
//! | last lines | the task's spool, without Convoke's own lines |
//! | command, image, data interface, node | the job and this node |
//!
//! Each question is answered once, in a worker, within a deadline. No answer is an answer: an end is reported with
//! or without an explanation.

use std::path::PathBuf;
use std::time::Duration;

use convoke_explain::{Evidence, Line, MAX_LINE, MAX_LINES, Source};
use convoke_model::{DesiredReplica, ExitStatus, Explanation, RankLayout, TaskExit, Timestamp};
use tracing::warn;

use super::network;
use crate::host::Host;
use crate::runtime::TaskKey;
use crate::spool;
use crate::usage;

/// Reading 400 lines and trying the rules on them takes milliseconds. On a disk that hangs the end is reported
/// without.
const LIMIT: Duration = Duration::from_secs(10);
/// What no rule but the last knows: the error's own words, which are told anyway.
const NOTHING_NEW: &str = "CouldNotStart";
/// As shells have it: it was found and cannot be run, it was not found.
const NOT_RUN: [ExitStatus; 2] = [ExitStatus::Code(126), ExitStatus::Code(127)];

/// A task that has ended, and what was seen of it.
#[derive(Debug)]
pub struct Ended {
    pub task: TaskKey,
    pub desired: DesiredReplica,
    pub exit: TaskExit,
    /// None for one that never ran.
    pub usage: Option<usage::Watch>,
}

/// Why it ended; nothing for one that did well, and where nothing is recognised.
pub async fn explain(host: &Host, ended: Ended) -> Option<Box<Explanation>> {
    let Ended { task, desired, exit, usage } = ended;
    // A runtime that says why it knows nothing is to be believed.
    let nobody_saw = exit.status == ExitStatus::Unknown && exit.message.is_some() && usage.is_some();
    if exit.status.is_success() || nobody_saw {
        return None;
    }
    let started = usage.is_some() && !NOT_RUN.contains(&exit.status);
    let error = exit.message.clone().filter(|_| !started);
    let dir = host.runtime.task_dir(&task);
    let stopped = exit.stopped.then(|| dir.stopping_since()).flatten();
    let ranks = match desired.spec.layout {
        RankLayout::PerNode => desired.placement.local_world,
        RankLayout::PerGpu => 1,
    };
    let ranks = Some((task.rank.0, ranks));
    let facts = Facts { usage, output: Some(dir.output()), stopped, ranks, ..facts(host, &desired) };
    judged(Facts { exit, error, ..facts }).await
}

/// Why a replica cannot be prepared or started, where that is more than the message says.
pub(super) async fn refused(
    host: &Host,
    desired: &DesiredReplica,
    message: &str,
) -> Option<Box<Explanation>> {
    let facts = Facts { error: Some(message.to_owned()), ..facts(host, desired) };
    judged(facts).await.filter(|explanation| explanation.cause != NOTHING_NEW)
}

/// [`Evidence`] that owns its parts.
struct Facts {
    exit: TaskExit,
    error: Option<String>,
    usage: Option<usage::Watch>,
    output: Option<PathBuf>,
    /// When it was asked to stop, if that is known.
    stopped: Option<Timestamp>,
    ranks: Option<(u32, u32)>,
    contained: bool,
    memory_limit: Option<u64>,
    shm_size: Option<u64>,
    command: Vec<String>,
    image: Option<String>,
    interface: Option<String>,
    address: Option<String>,
    node: String,
}

fn facts(host: &Host, desired: &DesiredReplica) -> Facts {
    let spec = &desired.spec;
    let data = network::data(host, desired).ok();
    Facts {
        exit: TaskExit::new(ExitStatus::Unknown, crate::clock::now()),
        error: None,
        usage: None,
        output: None,
        stopped: None,
        ranks: None,
        contained: spec.image.is_some(),
        memory_limit: spec.limits.memory.filter(|_| spec.image.is_some()),
        shm_size: spec.container.shm_size.filter(|_| spec.image.is_some()),
        command: spec.argv(),
        image: spec.image.clone(),
        interface: data.as_ref().map(|data| data.interface.clone()).filter(|name| !name.is_empty()),
        address: data.map(|data| data.address.to_string()),
        node: host.node.to_string(),
    }
}

async fn judged(facts: Facts) -> Option<Box<Explanation>> {
    let judging = tokio::task::spawn_blocking(move || judge(&facts));
    match tokio::time::timeout(LIMIT, judging).await {
        Ok(Ok(explanation)) => explanation,
        Ok(Err(failure)) => {
            warn!("an end could not be explained, this is a bug in convoke-agent: {failure}");
            None
        }
        Err(_) => {
            warn!("an end could not be explained within {} s: the disk hangs", LIMIT.as_secs());
            None
        }
    }
}

fn judge(facts: &Facts) -> Option<Box<Explanation>> {
    let usage = facts.usage.as_ref().map(|usage| usage.end(facts.contained)).unwrap_or_default();
    let output = facts.output.as_ref().map(|dir| spool::last(dir, MAX_LINES as u64, MAX_LINE));
    // Lines that cannot be read are no evidence.
    let output = output.and_then(Result::ok).unwrap_or_default();
    let tail: Vec<Line<'_>> = output.iter().filter_map(line).collect();
    let oom_killed = facts.exit.oom_killed || killed_for_memory(facts, &usage);
    let evidence = Evidence {
        exit: facts.exit.status,
        oom_killed,
        stopped: stopped_after(facts, &output),
        ranks: facts.ranks,
        memory_limit: usage.memory_limit.or(facts.memory_limit),
        memory_peak: if oom_killed { usage.peak_at_the_limit() } else { usage.memory_peak },
        shm_size: usage.shm_size.or(facts.shm_size),
        shm_peak: usage.shm_peak,
        tail: &tail,
        command: &facts.command,
        image: facts.image.as_deref(),
        runtime_error: facts.error.as_deref(),
        data_interface: facts.interface.as_deref(),
        data_address: facts.address.as_deref(),
        node: Some(&facts.node),
    };
    convoke_explain::explain(&evidence).map(|explanation| Box::new(explanation.into()))
}

/// How many of its lines it had said when it was asked to stop; nothing if it ended before that.
fn stopped_after(facts: &Facts, output: &[spool::Line]) -> Option<usize> {
    let since = match facts.stopped {
        Some(since) if facts.exit.at < since => return None,
        since => since.filter(|_| facts.exit.stopped),
    };
    let said = |since| output.iter().filter(|l| line(l).is_some() && l.at < since).count();
    facts.exit.stopped.then(|| since.map_or(0, said))
}

/// What the kernel counted is a container's own; of processes, which share the agent's cgroup, it is that of the
/// one that was killed.
fn killed_for_memory(facts: &Facts, usage: &usage::Usage) -> bool {
    usage.oom_kills > 0 && (facts.contained || facts.exit.status == ExitStatus::Signal(9))
}

fn line(line: &spool::Line) -> Option<Line<'_>> {
    let source = match line.source {
        spool::Source::Stdout => Source::Stdout,
        spool::Source::Stderr => Source::Stderr,
        spool::Source::Convoke => return None,
    };
    Some(Line { source, text: &line.text })
}

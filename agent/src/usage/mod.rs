//! What a task uses while it runs: looked at every few seconds, for most of it is gone with the task.
//!
//! All of it is read from outside, by the task's main process (`pid`), and costs a few reads of files that the
//! kernel makes up:
//!
//! | value | where |
//! |---|---|
//! | memory: limit, peak, kills | the memory cgroup that `/proc/<pid>/cgroup` names, see `cgroup` |
//! | `/dev/shm`: size, use | statvfs of `/proc/<pid>/root/dev/shm`: the container's own, from the host |
//!
//! The memory's peak is the kernel's own high-water mark where it keeps one. That of `/dev/shm` is the most that
//! was seen: what fills up and dies between two looks is missed. A process of the host shares the agent's cgroup,
//! so of that only the kills are taken, from the task's start on; `/dev/shm` is the host's.
//!
//! What cannot be read (the agent is another user than the task; a cgroup that is not mounted here) is unknown.

mod cgroup;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use crate::runtime::{Runtime, TaskKey, TaskStatus};
use cgroup::Cgroup;

/// The first looks are close together: many a task fails within its first second.
const FIRST: Duration = Duration::from_millis(50);
/// A look costs about 100 µs: every 2 s it is nothing, and a buffer that fills up is seen.
const LONGEST: Duration = Duration::from_secs(2);

/// What was seen of one task so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub memory_limit: Option<u64>,
    pub memory_peak: Option<u64>,
    pub shm_size: Option<u64>,
    pub shm_peak: Option<u64>,
    /// Processes of its cgroup that the kernel killed for memory while it ran.
    pub oom_kills: u64,
}

impl Usage {
    /// The peak, if it was seen near the limit. A task that died of its limit reached it: the last look was too
    /// early if it says otherwise.
    pub fn peak_at_the_limit(&self) -> Option<u64> {
        let limit = self.memory_limit?;
        self.memory_peak.filter(|peak| *peak >= limit - limit / 20)
    }
}

/// Looks at one task from its start to its end. Clones share what was seen.
#[derive(Debug, Clone, Default)]
pub struct Watch(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    usage: Usage,
    /// Where its memory is counted, and the kills there before it.
    cgroup: Option<(Cgroup, u64)>,
}

impl Watch {
    /// Looks until the task has ended. `own` says that its cgroup is its own: a container's.
    pub async fn run(self, runtime: Arc<dyn Runtime>, task: TaskKey, own: bool) {
        let mut pause = FIRST;
        loop {
            match runtime.status(&task) {
                Some(TaskStatus::Running { pid, .. }) if pid > 0 => {
                    let watch = self.clone();
                    // A file system that hangs must not hold up the reactor; what it would say is missed.
                    let _ = tokio::task::spawn_blocking(move || watch.look(pid, own)).await;
                    pause = (pause * 2).min(LONGEST);
                }
                Some(TaskStatus::Exited(_) | TaskStatus::Ended(_)) => return,
                Some(TaskStatus::Starting | TaskStatus::Running { .. }) | None => {}
            }
            sleep(pause).await;
        }
    }

    fn look(&self, pid: u32, own: bool) {
        let shm = shm(pid);
        let mut seen = self.seen();
        if seen.cgroup.is_none() {
            seen.cgroup = Cgroup::of(pid).map(|cgroup| {
                let before = if own { 0 } else { cgroup.oom_kills().unwrap_or_default() };
                (cgroup, before)
            });
        }
        seen.count(own);
        if let Some((size, used)) = shm {
            seen.usage.shm_size = Some(size);
            seen.usage.shm_peak = seen.usage.shm_peak.max(Some(used));
        }
    }

    /// What was seen, with what the kernel still counts now that the task has ended. Blocking.
    pub fn end(&self, own: bool) -> Usage {
        let mut seen = self.seen();
        seen.count(own);
        seen.usage.clone()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn count(&mut self, own: bool) {
        let Some((cgroup, before)) = &self.cgroup else { return };
        let usage = &mut self.usage;
        let kills = cgroup.oom_kills().map(|kills| kills.saturating_sub(*before));
        usage.oom_kills = usage.oom_kills.max(kills.unwrap_or_default());
        if own {
            usage.memory_limit = cgroup.limit().or(usage.memory_limit);
            usage.memory_peak = cgroup.peak().max(usage.memory_peak);
        }
    }
}

/// Size of a process's `/dev/shm`, and how much of it is in use.
fn shm(pid: u32) -> Option<(u64, u64)> {
    let found = rustix::fs::statvfs(format!("/proc/{pid}/root/dev/shm")).ok()?;
    let free = found.f_bfree.min(found.f_blocks);
    Some((found.f_blocks * found.f_frsize, (found.f_blocks - free) * found.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_most_that_was_in_use_of_shared_memory_is_remembered() {
        if !std::path::Path::new("/dev/shm").is_dir() {
            return;
        }
        const SIZE: usize = 4 << 20;
        let watch = Watch::default();
        let mut file = tempfile::tempfile_in("/dev/shm").unwrap();
        file.write_all(&vec![1; SIZE]).unwrap();
        watch.look(std::process::id(), false);
        let full = watch.end(false);
        assert!(full.shm_peak.unwrap() >= SIZE as u64 && full.shm_size >= full.shm_peak, "{full:?}");
        file.set_len(0).unwrap();
        watch.look(std::process::id(), false);
        assert!(watch.end(false).shm_peak >= full.shm_peak);
        assert_eq!(full.memory_peak, None, "the agent's own memory is not the task's");
    }

    #[test]
    fn a_peak_that_was_seen_too_early_is_not_told_of_a_task_that_reached_its_limit() {
        let peak = |memory_peak| Usage { memory_limit: Some(100), memory_peak, ..Usage::default() };
        assert_eq!(peak(Some(75)).peak_at_the_limit(), None);
        assert_eq!(peak(Some(99)).peak_at_the_limit(), Some(99));
        assert_eq!(Usage { memory_peak: Some(99), ..Usage::default() }.peak_at_the_limit(), None);
    }

    #[test]
    fn a_process_that_is_gone_leaves_everything_unknown() {
        let watch = Watch::default();
        watch.look(u32::MAX, true);
        assert_eq!(watch.end(true), Usage::default());
    }
}

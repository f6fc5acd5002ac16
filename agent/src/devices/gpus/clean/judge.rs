//! Whether a GPU that nobody should use is free: pure.

use std::time::Duration;

use super::super::state::Process;

/// A GPU that is not clean so long after its replica ended is quarantined. A killed process gives its
/// memory back within a second; one that writes a core dump, or waits for a disk, takes some.
pub(super) const BOUND: Duration = Duration::from_secs(15);
/// What an idle GPU uses at most, if it was never seen idle: the driver's own, and ECC's.
const FLOOR: u64 = 1 << 30;
/// How far above its floor an idle GPU may be: drivers do not always give back the last of it.
const SLACK: u64 = 256 << 20;
/// Programs that draw a screen or keep the driver awake, and what they take at most.
const ALLOWED: [&str; 5] = ["Xorg", "Xwayland", "gnome-shell", "kwin_wayland", "nvidia-persiste"];
const ALLOWED_MEMORY: u64 = 512 << 20;

/// A process that NVML lists, with what the host knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) process: Process,
    /// Empty if it is not this host's, or gone.
    pub(super) user: String,
    pub(super) name: String,
    /// It is one of the ended replica's.
    pub(super) own: bool,
}

/// One look at a GPU that no task should be using.
#[derive(Debug, Clone)]
pub(super) struct Look<'a> {
    pub(super) holders: &'a [Holder],
    /// Bytes.
    pub(super) used: u64,
    /// The least that it used while nobody held it; `None` if it was never seen so.
    pub(super) floor: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Clean,
    /// Processes of the ended replica are left: to be killed.
    Own(Vec<u32>),
    /// Others hold it.
    Foreign(Vec<u32>),
    /// So many bytes are in use, and by no process.
    Memory(u64),
}

impl Holder {
    fn is_allowed(&self) -> bool {
        let small = self.process.memory.is_none_or(|memory| memory <= ALLOWED_MEMORY);
        small && ALLOWED.contains(&self.name.as_str())
    }

    /// "pid 4711 (python) of user ann with 3.0 GiB".
    pub(super) fn describe(&self) -> String {
        let known = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
        let memory = self.process.memory.map(|bytes| bytesize::ByteSize(bytes).display().iec().to_string());
        format!(
            "pid {} ({}) of user {} with {}",
            self.process.pid,
            known(&self.name),
            known(&self.user),
            memory.unwrap_or_else(|| "unknown memory".to_owned())
        )
    }
}

pub(super) fn judge(look: &Look<'_>) -> Verdict {
    let pids = |own: bool| -> Vec<u32> {
        let those = look.holders.iter().filter(|holder| holder.own == own && (own || !holder.is_allowed()));
        those.map(|holder| holder.process.pid).collect()
    };
    let (own, foreign) = (pids(true), pids(false));
    if !own.is_empty() {
        return Verdict::Own(own);
    }
    if !foreign.is_empty() {
        return Verdict::Foreign(foreign);
    }
    let used = without_allowed(look);
    if used > look.floor.unwrap_or(FLOOR).min(FLOOR) + SLACK { Verdict::Memory(used) } else { Verdict::Clean }
}

/// The floor after this look.
pub(super) fn floor(look: &Look<'_>) -> Option<u64> {
    match judge(look) {
        Verdict::Clean => Some(look.floor.unwrap_or(u64::MAX).min(without_allowed(look))),
        Verdict::Own(_) | Verdict::Foreign(_) | Verdict::Memory(_) => look.floor,
    }
}

fn without_allowed(look: &Look<'_>) -> u64 {
    let allowed: u64 = look.holders.iter().filter_map(|holder| holder.process.memory).sum();
    look.used.saturating_sub(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn holder(pid: u32, name: &str, own: bool, memory: u64) -> Holder {
        let process = Process { pid, memory: Some(memory) };
        Holder { process, user: "ann".to_owned(), name: name.to_owned(), own }
    }

    fn verdict(holders: &[Holder], used: u64, floor: Option<u64>) -> Verdict {
        judge(&Look { holders, used, floor })
    }

    #[test]
    fn the_replicas_own_are_told_apart_from_others() {
        let (own, other) = (holder(1, "python", true, GIB), holder(2, "python", false, GIB));
        assert_eq!(verdict(&[own, other.clone()], 2 * GIB, None), Verdict::Own(vec![1]));
        assert_eq!(verdict(&[other], GIB, None), Verdict::Foreign(vec![2]));
    }

    #[test]
    fn a_screen_does_not_count_while_it_is_small_and_never_as_the_replicas_own() {
        let screen = |memory| holder(7, "Xorg", false, memory);
        assert_eq!(verdict(&[screen(100 << 20)], 110 << 20, Some(10 << 20)), Verdict::Clean);
        assert_eq!(verdict(&[screen(GIB)], GIB, None), Verdict::Foreign(vec![7]));
        assert_eq!(verdict(&[holder(7, "Xorg", true, 0)], 0, None), Verdict::Own(vec![7]));
    }

    #[test]
    fn memory_without_a_process_must_be_back_at_its_floor() {
        assert_eq!(verdict(&[], 5 << 20, Some(4 << 20)), Verdict::Clean);
        assert_eq!(verdict(&[], GIB, Some(4 << 20)), Verdict::Memory(GIB));
        // Never seen idle: what a driver may take is not held against it.
        assert_eq!(verdict(&[], GIB, None), Verdict::Clean);
        assert_eq!(verdict(&[], 3 * GIB, None), Verdict::Memory(3 * GIB));
        // Nor does an agent that first saw it full take that for its floor.
        assert_eq!(verdict(&[], 3 * GIB, Some(3 * GIB)), Verdict::Memory(3 * GIB));
    }

    #[test]
    fn the_floor_is_the_least_that_was_seen_while_it_was_clean() {
        let look = |used, floor| floor_of(&[], used, floor);
        assert_eq!(look(5 << 20, None), Some(5 << 20));
        assert_eq!(look(4 << 20, Some(5 << 20)), Some(4 << 20));
        assert_eq!(look(6 << 20, Some(5 << 20)), Some(5 << 20));
        assert_eq!(look(9 * GIB, Some(5 << 20)), Some(5 << 20));
        assert_eq!(floor_of(&[holder(2, "python", false, 0)], 0, None), None);
    }

    fn floor_of(holders: &[Holder], used: u64, floor: Option<u64>) -> Option<u64> {
        super::floor(&Look { holders, used, floor })
    }

    #[test]
    fn a_holder_is_told_with_pid_user_and_memory() {
        assert_eq!(holder(9, "python", false, 3 * GIB).describe(), "pid 9 (python) of user ann with 3.0 GiB");
        let gone = Holder {
            process: Process { pid: 9, memory: None },
            user: String::new(),
            name: String::new(),
            own: false,
        };
        assert_eq!(gone.describe(), "pid 9 (unknown) of user unknown with unknown memory");
    }
}

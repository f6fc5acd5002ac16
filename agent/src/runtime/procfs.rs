//! Processes of the host, told apart for certain: a process id alone may have been used again.
//!
//! A process is named by its id, its start time and the boot it belongs to; signals go through a
//! pidfd that was checked against that name. The processes of a task are found in two ways: as
//! descendants of its shim (which is their subreaper), and by the task's marker in their
//! environment, which also finds what a killed shim left behind. A process that cleared its own
//! environment after its shim was killed is the one that neither way finds.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// The variable whose value marks the processes of one start of one task.
pub(crate) const MARKER: &str = "CONVOKE_TASK";

/// Names one process for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Clock ticks since the boot.
    start_time: u64,
    boot: String,
}

/// A line of `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    pid: i32,
    parent: i32,
    zombie: bool,
    start_time: u64,
}

impl ProcessId {
    /// The process that has `pid` now.
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let stat = stat(pid)?;
        Ok(Self { pid, start_time: stat.start_time, boot: boot()? })
    }

    /// A descriptor that becomes readable when the process ends; `None` if it has already, or is a
    /// zombie of a parent that is gone.
    pub(crate) fn pidfd(&self) -> Option<OwnedFd> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::NONBLOCK).ok()?;
        // Looked up after the descriptor was taken: if it is still the same, so is the descriptor.
        (Self::of(self.pid).ok().as_ref() == Some(self)).then_some(fd)
    }
}

/// Names the time since the host was started.
pub(crate) fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Sends SIGKILL to every process below `ancestor`, and says how many there were.
pub(crate) fn kill_descendants(ancestor: i32) -> io::Result<usize> {
    let found = descendants(ancestor)?;
    for known in &found {
        kill(known.pid, || stat(known.pid).is_ok_and(|now| now.start_time == known.start_time));
    }
    Ok(found.len())
}

/// The marker that a process below `ancestor` carries; those of one task carry one and the same.
pub(crate) fn marker_below(ancestor: i32) -> io::Result<Option<String>> {
    Ok(descendants(ancestor)?.iter().find_map(|found| marker(found.pid)))
}

/// The process, a shim, that was told to own the task of `directory`.
pub(crate) fn shim_of(directory: &Path) -> io::Result<Option<i32>> {
    let wanted = directory.as_os_str().as_bytes();
    let owns = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|b| *b == 0);
        words.any(|word| word == b"--detached") && words.any(|word| word == wanted)
    };
    Ok(pids()?.find(owns))
}

/// The processes below `ancestor` that have not ended.
fn descendants(ancestor: i32) -> io::Result<Vec<Stat>> {
    let all = processes()?;
    let mut family = BTreeSet::from([ancestor]);
    let mut found: Vec<Stat> = Vec::new();
    // Parents may come after their children in the list, so until nothing is added.
    loop {
        let before = found.len();
        for stat in &all {
            if family.contains(&stat.parent) && family.insert(stat.pid) {
                found.push(*stat);
            }
        }
        if found.len() == before {
            break;
        }
    }
    found.retain(|stat| !stat.zombie);
    Ok(found)
}

/// Sends SIGKILL to every process that carries `marker`, and says how many there were.
pub(crate) fn kill_marked(marker: &str) -> io::Result<usize> {
    let marked: Vec<_> = marked(marker)?;
    for &pid in &marked {
        kill(pid, || carries(pid, marker));
    }
    Ok(marked.len())
}

/// The processes whose environment carries `marker`; zombies have none.
pub(crate) fn marked(marker: &str) -> io::Result<Vec<i32>> {
    Ok(pids()?.filter(|pid| carries(*pid, marker)).collect())
}

fn marker(pid: i32) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let name = format!("{MARKER}=");
    let value = environment.split(|b| *b == 0).find_map(|variable| variable.strip_prefix(name.as_bytes()))?;
    String::from_utf8(value.to_vec()).ok()
}

pub(crate) fn carries(pid: i32, marker: &str) -> bool {
    let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let wanted = format!("{MARKER}={marker}");
    environment.split(|b| *b == 0).any(|variable| variable == wanted.as_bytes())
}

/// Kills `pid` if `same` holds once its descriptor is taken.
pub(crate) fn kill(pid: i32, same: impl Fn() -> bool) {
    let Some(fd) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return;
    };
    if same() {
        // It may have ended just now, which is what was wanted.
        pidfd_send_signal(fd, Signal::KILL).ok();
    }
}

/// The signal of that number; SIGTERM for one that cannot be sent.
pub(crate) fn signal(number: i32) -> Signal {
    match Signal::from_named_raw(number) {
        Some(signal) => signal,
        // SAFETY: real-time signals from 34 on are not reserved by the C library (32 and 33 are).
        None if (34..=64).contains(&number) => unsafe { Signal::from_raw_unchecked(number) },
        None => Signal::TERM,
    }
}

fn pids() -> io::Result<impl Iterator<Item = i32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

fn processes() -> io::Result<Vec<Stat>> {
    Ok(pids()?.filter_map(|pid| stat(pid).ok()).collect())
}

fn stat(pid: i32) -> io::Result<Stat> {
    let line = fs::read(format!("/proc/{pid}/stat"))?;
    parse_stat(pid, &String::from_utf8_lossy(&line))
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not what is expected")))
}

fn parse_stat(pid: i32, line: &str) -> Option<Stat> {
    // The second field is the program's name in parentheses, and may itself hold spaces and ')'.
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        zombie: matches!(*fields.first()?, "Z" | "X"),
        start_time: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_parentheses_does_not_shift_the_fields() {
        let line = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        assert_eq!(parse_stat(7, line), Some(Stat { pid: 7, parent: 3, zombie: false, start_time: 4242 }));
        assert_eq!(parse_stat(7, "7 (x"), None);
    }

    #[test]
    fn a_process_id_with_another_start_time_is_another_process() {
        let me = ProcessId::of(std::process::id().cast_signed()).unwrap();
        assert!(me.pidfd().is_some());
        assert!(ProcessId { start_time: me.start_time + 1, ..me.clone() }.pidfd().is_none());
        assert!(ProcessId { boot: "another".to_owned(), ..me }.pidfd().is_none());
    }
}

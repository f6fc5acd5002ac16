//! Who runs, and what is mounted: `/proc`, searched for what is ours.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process, as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    pub pid: u32,
    pub parent: u32,
    pub command: String,
    environment: Vec<u8>,
}

impl Running {
    /// A variable of the environment that it was started with.
    pub fn variable(&self, name: &str) -> Option<String> {
        let prefix = format!("{name}=").into_bytes();
        let found = self.environment.split(|b| *b == 0).find_map(|entry| entry.strip_prefix(&prefix[..]))?;
        Some(String::from_utf8_lossy(found).into_owned())
    }

    fn mentions(&self, text: &str) -> bool {
        self.command.contains(text) || String::from_utf8_lossy(&self.environment).contains(text)
    }
}

/// What is mounted at or below `directory`.
pub fn mounted_below(directory: &Path) -> Vec<PathBuf> {
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(&directory)).collect()
}

/// Takes all of that down, whoever still uses it.
pub fn unmount_below(directory: &Path) {
    for point in mounted_below(directory).iter().rev() {
        if let Err(error) = unmount(point, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", point.display());
        }
    }
}

/// Every process that can be read and has not ended.
pub fn all() -> Vec<Running> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted");
    entries.flatten().filter_map(|entry| read(&entry.path())).collect()
}

fn read(directory: &Path) -> Option<Running> {
    let pid = directory.file_name()?.to_str()?.parse().ok()?;
    let stat = fs::read_to_string(directory.join("stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next(), Some("Z" | "X")) {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let command = fs::read(directory.join("cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let environment = fs::read(directory.join("environ")).unwrap_or_default();
    Some(Running { pid, parent, command, environment })
}

/// Processes whose command line or environment names `text`, other than this one.
pub fn mentioning(text: &str) -> Vec<Running> {
    let me = std::process::id();
    all().into_iter().filter(|p| p.pid != me && p.mentions(text)).collect()
}

/// Every process of a job's tasks, descendants included.
pub fn of_job(job: &str) -> Vec<Running> {
    all().into_iter().filter(|p| p.variable("CONVOKE_JOB").as_deref() == Some(job)).collect()
}

/// A rank's main process: the one whose parent (the shim) is not of the task.
pub fn task(job: &str, rank: u32) -> Option<Running> {
    let rank = rank.to_string();
    let mine: Vec<_> =
        of_job(job).into_iter().filter(|p| p.variable("RANK").as_ref() == Some(&rank)).collect();
    mine.iter().find(|p| mine.iter().all(|other| other.pid != p.parent)).cloned()
}

/// SIGKILL to all of them; returns when they are gone, or after ten seconds.
pub fn kill_all(processes: &[Running]) {
    let pid = |p: &Running| i32::try_from(p.pid).ok().and_then(Pid::from_raw);
    let handles: Vec<_> =
        processes.iter().filter_map(|p| pidfd_open(pid(p)?, PidfdFlags::empty()).ok()).collect();
    for handle in &handles {
        // An error means that it is gone already.
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
    for handle in &handles {
        let timeout = Timespec { tv_sec: 10, tv_nsec: 0 };
        let _ = poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&timeout));
    }
}

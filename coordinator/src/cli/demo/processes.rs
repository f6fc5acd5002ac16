//! The demo's processes as /proc shows them: finding a rank's, and making sure that none is left.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

/// Between two looks at /proc.
const LOOK: Duration = Duration::from_millis(50);

/// The process that runs `rank` of a generation: its environment says so. Of several (a trainer's
/// own children), the one that was started first.
pub(super) fn of_rank(job: &str, generation: u64, rank: u32) -> Option<Pid> {
    let wanted =
        [format!("CONVOKE_JOB={job}"), format!("CONVOKE_GENERATION={generation}"), format!("RANK={rank}")];
    let matches = |pid: &Pid| {
        let environment = read(*pid, "environ");
        wanted.iter().all(|w| words(&environment).any(|v| v == w.as_bytes()))
    };
    all().filter(matches).min_by_key(|pid| started(*pid))
}

/// Waits until no process of the demo in `home` is left; from `patience` on, kills what still is.
/// Returns what could not be ended.
pub(super) async fn gone(home: &Path, patience: Duration) -> Vec<Pid> {
    let gently = Instant::now() + patience;
    let last = gently + patience;
    loop {
        let left: Vec<_> = all().filter(|pid| belongs(*pid, home)).collect();
        let now = Instant::now();
        if left.is_empty() || now >= last {
            return left;
        }
        if now >= gently {
            for pid in left {
                // It may have ended since.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// True for the coordinator, the agents and the shims (their lifeline is ours) and for the tasks
/// (their directories are).
fn belongs(pid: Pid, home: &Path) -> bool {
    if pid == rustix::process::getpid() {
        return false;
    }
    let lifeline = home.join("lifeline");
    if words(&read(pid, "cmdline")).any(|word| word == lifeline.as_os_str().as_bytes()) {
        return true;
    }
    let inside = |variable: &[u8]| {
        let value = variable.splitn(2, |b| *b == b'=').nth(1).unwrap_or_default();
        variable.starts_with(b"CONVOKE_") && Path::new(OsStr::from_bytes(value)).starts_with(home)
    };
    words(&read(pid, "environ")).any(inside)
}

fn all() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

/// Empty where the process has ended or is not ours to read.
fn read(pid: Pid, file: &str) -> Vec<u8> {
    std::fs::read(path(pid, file)).unwrap_or_default()
}

fn path(pid: Pid, file: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/{file}", pid.as_raw_nonzero()))
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == 0)
}

/// Start time in clock ticks since boot.
fn started(pid: Pid) -> u64 {
    let stat = read(pid, "stat");
    // The name in parentheses may hold anything; field 22 is the 20th after it.
    let after = stat.iter().rposition(|b| *b == b')').map_or(0, |at| at + 1);
    let text = String::from_utf8_lossy(&stat[after..]).into_owned();
    text.split_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_rank_is_found_by_job_generation_and_rank() {
        let mut child = Command::new("sleep")
            .arg("60")
            .envs([("CONVOKE_JOB", "job-of-this-test"), ("CONVOKE_GENERATION", "1"), ("RANK", "2")])
            .spawn()
            .unwrap();
        let found = of_rank("job-of-this-test", 1, 2).map(|pid| pid.as_raw_nonzero().get());
        let others = (of_rank("job-of-this-test", 1, 3), of_rank("job-of-this-test", 2, 2));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found, i32::try_from(child.id()).ok());
        assert_eq!(others, (None, None));
    }

    #[tokio::test]
    async fn what_is_left_of_a_demo_is_ended_and_others_are_not() {
        let home = tempfile::tempdir().unwrap();
        let sleep = |variable: &str| {
            Command::new("sleep").arg("60").env(variable, home.path().join("x")).spawn().unwrap()
        };
        let (mut ours, mut other) = (sleep("CONVOKE_CHECKPOINT_DIR"), sleep("SOMETHING_ELSE"));
        let reaper = tokio::task::spawn_blocking(move || ours.wait().unwrap());
        assert_eq!(gone(home.path(), Duration::from_millis(100)).await, []);
        assert!(!reaper.await.unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}

//! The memory cgroup of a process, version 1 or 2.
//!
//! | | version 1 | version 2 |
//! |---|---|---|
//! | limit | `memory.limit_in_bytes`, huge without one | `memory.max`, `max` without one |
//! | peak | `memory.max_usage_in_bytes` | `memory.peak` (Linux 5.19), before it `memory.current` |
//! | kills | `oom_kill` of `memory.oom_control` | `oom_kill` of `memory.events` |

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";
/// Version 1 has a number for "no limit": the largest multiple of a page. Nobody has an exbibyte.
const NO_LIMIT: u64 = 1 << 60;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cgroup {
    dir: PathBuf,
    first_version: bool,
}

impl Cgroup {
    pub(super) fn of(pid: u32) -> Option<Self> {
        let listed = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Self::listed(&listed, Path::new(ROOT)).filter(|cgroup| cgroup.dir.is_dir())
    }

    /// From lines as `4:memory:/docker/12ab` or `0::/system.slice/a.service`.
    fn listed(lines: &str, root: &Path) -> Option<Self> {
        let path = |wanted: fn(&str, &str) -> bool| {
            let fields = lines.lines().filter_map(|line| {
                let mut fields = line.splitn(3, ':');
                Some((fields.next()?, fields.next()?, fields.next()?))
            });
            let found = fields.into_iter().find(|(number, names, _)| wanted(number, names));
            // One that begins with `..` is outside of what is mounted here.
            found.map(|(.., path)| path.trim_start_matches('/')).filter(|path| !path.starts_with(".."))
        };
        let first = path(|_, names| names.split(',').any(|name| name == "memory"));
        match first {
            Some(path) => Some(Self { dir: root.join("memory").join(path), first_version: true }),
            None => path(|number, names| number == "0" && names.is_empty())
                .map(|path| Self { dir: root.join(path), first_version: false }),
        }
    }

    pub(super) fn limit(&self) -> Option<u64> {
        let name = if self.first_version { "memory.limit_in_bytes" } else { "memory.max" };
        self.number(name).filter(|limit| *limit < NO_LIMIT)
    }

    pub(super) fn peak(&self) -> Option<u64> {
        if self.first_version {
            return self.number("memory.max_usage_in_bytes");
        }
        self.number("memory.peak").or_else(|| self.number("memory.current"))
    }

    pub(super) fn oom_kills(&self) -> Option<u64> {
        let name = if self.first_version { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.dir.join(name)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    }

    fn number(&self, name: &str) -> Option<u64> {
        fs::read_to_string(self.dir.join(name)).ok()?.trim().parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(lines: &str) -> Option<(String, bool)> {
        let found = Cgroup::listed(lines, Path::new("/c"))?;
        Some((found.dir.display().to_string(), found.first_version))
    }

    #[test]
    fn both_versions_are_found_and_what_is_outside_is_not() {
        let first = "5:devices:/docker/12ab\n4:cpu,memory:/docker/12ab\n0::/x";
        assert_eq!(dir(first), Some(("/c/memory/docker/12ab".to_owned(), true)));
        let second = "0::/system.slice/docker-12ab.scope\n";
        assert_eq!(dir(second), Some(("/c/system.slice/docker-12ab.scope".to_owned(), false)));
        assert_eq!(dir("4:memory:/../../x"), None);
        assert_eq!(dir("5:devices:/x\nnonsense"), None);
    }

    #[test]
    fn limits_peaks_and_kills_are_read_as_each_version_writes_them() {
        let files = [
            (true, "memory.limit_in_bytes", "9223372036854771712\n", "memory.oom_control"),
            (false, "memory.max", "max\n", "memory.events"),
        ];
        for (first_version, limit, without, kills) in files {
            let root = tempfile::tempdir().unwrap();
            let cgroup = Cgroup { dir: root.path().to_owned(), first_version };
            assert_eq!((cgroup.limit(), cgroup.peak(), cgroup.oom_kills()), (None, None, None));
            fs::write(root.path().join(limit), without).unwrap();
            assert_eq!(cgroup.limit(), None);
            fs::write(root.path().join(limit), "100663296\n").unwrap();
            fs::write(root.path().join(kills), "oom 7\noom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
                .unwrap();
            assert_eq!((cgroup.limit(), cgroup.oom_kills()), (Some(96 << 20), Some(3)));
            let peak = if first_version { "memory.max_usage_in_bytes" } else { "memory.current" };
            fs::write(root.path().join(peak), "12\n").unwrap();
            assert_eq!(cgroup.peak(), Some(12));
        }
    }
}
